"""Which detector, its weights and what they were trained on; nothing in a file is ever run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fattr import weights
from fattr.detect.detector import Normalisation
from fattr.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from fattr.detect.network import RetinaFace

SHIPPED = "retinaface_mobilenet025"
NORMALISATIONS = {
    "bgr_caffe": Normalisation("bgr", (104, 117, 123), (1, 1, 1)),  # biubug6, yakhyo
    "rgb_imagenet": Normalisation("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
}
TERNAUS_RESNET50 = "retinaface_resnet50_2020-07-20"  # the published checkpoint that takes RGB


@dataclass(frozen=True, slots=True, eq=False)
class DetectorSource:
    """A detector in memory, so that it can be sent to workers without its file."""

    name: str  # SHIPPED, or the checkpoint's file name
    data: bytes = field(repr=False)  # ONNX if SHIPPED, else the checkpoint file
    sha256: str
    normalisation: Normalisation


def shipped() -> DetectorSource:
    """RetinaFace-MobileNet-0.25 as carried by an installed package.

    Raises:
        UsageError: the package is missing or damaged.
    """
    data = weights.retinaface_mobilenet025_onnx()
    return DetectorSource(SHIPPED, data, weights.sha256(data), NORMALISATIONS["bgr_caffe"])


def find(name_or_file: str) -> DetectorSource:
    """The shipped detector by name, or a checkpoint of the RetinaFace family by file.

    Raises:
        UsageError: neither a name nor a file, or a file of something else.
    """
    if name_or_file == SHIPPED:
        return shipped()
    path = Path(name_or_file)
    if not path.is_file():
        raise UsageError(
            f"unknown detector {name_or_file!r}: {SHIPPED} or a checkpoint file expected"
        )
    data = path.read_bytes()
    source = DetectorSource(path.name, data, weights.sha256(data), _normalisation_of(path))
    load_network(source)
    return source


def load_network(source: DetectorSource) -> RetinaFace:
    """The torch network of a detector, in evaluation mode.

    Raises:
        UsageError: the file holds no RetinaFace.
    """
    from fattr.detect.from_onnx import state_dict_of
    from fattr.detect.network import load_checkpoint

    if source.name == SHIPPED:
        return load_checkpoint(state_dict_of(source.data))[0]
    return load_checkpoint(_tensors(source))[0]


def _tensors(source: DetectorSource) -> Mapping[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if source.name.endswith(".safetensors"):
            return load(source.data)
        file = io.BytesIO(source.data)
        loaded = torch.load(file, map_location="cpu", weights_only=True)
        return {str(name): value for name, value in loaded.get("state_dict", loaded).items()}
    except (SafetensorError, *weights.DAMAGED) as err:
        problem = (str(err).splitlines() or [type(err).__name__])[0]
        raise UsageError(f"{source.name}: not a checkpoint of plain tensors: {problem}") from err


def _normalisation_of(path: Path) -> Normalisation:
    """As ``FILE.json`` beside the file states, else by the published name, else biubug6's."""
    sidecar = path.with_name(path.name + ".json")
    if sidecar.is_file():
        try:
            return NORMALISATIONS[json.loads(sidecar.read_text())["normalisation"]]
        except (ValueError, KeyError, TypeError) as err:
            known = sorted(NORMALISATIONS)
            raise UsageError(f"{sidecar}: normalisation must be one of {known}") from err
    named = "rgb_imagenet" if path.name.startswith(TERNAUS_RESNET50) else "bgr_caffe"
    return NORMALISATIONS[named]
