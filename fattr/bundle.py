"""A trained model as a folder: what it predicts and how its crops are cut, weights, ONNX, card.

Nothing here is ever unpickled, and a folder is used only if its content has the hash it states.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fattr.attributes import Attribute, Kind
from fattr.classify.calibration import Calibration, Curve
from fattr.errors import UsageError
from fattr.records import CropRule, TemplatePoint

SCHEMA_VERSION = 2  # of a bundle with biases or curves, which a reader of 1 would overlook
FIRST_VERSION = 1  # of all others
DESCRIPTION, WEIGHTS, ONNX = "bundle.json", "model.safetensors", "model.onnx"
CARD, FIGURES = "MODEL_CARD.md", "metrics.json"  # outside the hash: written after measuring


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleSpec:
    """What ``bundle.json`` holds, but for the hash."""

    name: str
    backbone: str
    attributes: tuple[Attribute, ...]  # in the order of the logits
    crop_rule: CropRule
    calibration: Calibration
    licence: str
    research_only: bool
    training: Mapping[str, Any]  # preset, data sets with licences, seed, epochs, valid figures
    versions: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A verified folder, in memory, so that it can be sent to workers without the folder."""

    spec: BundleSpec
    model_id: str
    folder: Path  # where it was read
    weights: bytes = field(repr=False)  # safetensors of ``classify.network.AttributeNet``
    onnx: bytes = field(repr=False)  # input ``crops`` (N, H, W, 3) uint8, output ``logits`` (N, L)

    def figures(self) -> Mapping[str, Any]:
        """What evaluation measured, as kept beside the card; empty if nothing was."""
        path = self.folder / FIGURES
        found: Mapping[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found


def _canonical(description: Mapping[str, Any]) -> bytes:
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def model_id_of(weights: bytes, onnx: bytes, description: Mapping[str, Any]) -> str:
    """SHA-256 over weights, ONNX and the canonical description without its own ``model_id``."""
    digest = hashlib.sha256(weights)
    digest.update(onnx)
    digest.update(_canonical({k: v for k, v in description.items() if k != "model_id"}))
    return digest.hexdigest()


def _described(spec: BundleSpec) -> dict[str, Any]:
    """The description as JSON holds it, without the hash; of 2 only what is used."""
    fields = dataclasses.asdict(spec)
    new = {name: fields["calibration"].pop(name) for name in ("biases", "curves")}
    used = {name: values for name, values in new.items() if values}
    fields["calibration"] |= used
    version = SCHEMA_VERSION if used else FIRST_VERSION
    described: dict[str, Any] = json.loads(_canonical({"schema_version": version, **fields}))
    return described


def save(folder: Path, spec: BundleSpec, *, weights: bytes, onnx: bytes) -> Bundle:
    """Write the folder (all but the card) and return what ``load`` would."""
    folder.mkdir(parents=True, exist_ok=True)
    description = _described(spec)
    model_id = model_id_of(weights, onnx, description)
    (folder / WEIGHTS).write_bytes(weights)
    (folder / ONNX).write_bytes(onnx)
    text = json.dumps({**description, "model_id": model_id}, indent=1, ensure_ascii=False)
    (folder / DESCRIPTION).write_text(text + "\n")
    return Bundle(spec, model_id, folder, weights, onnx)


def load(folder: Path) -> Bundle:
    """The bundle in a folder, its hash verified.

    Raises:
        UsageError: a file is missing, the description is not one of ours, or the hash differs.
    """
    try:
        description = {**json.loads((folder / DESCRIPTION).read_text())}
        weights, onnx = (folder / WEIGHTS).read_bytes(), (folder / ONNX).read_bytes()
    except (OSError, ValueError, TypeError) as err:
        raise UsageError(f"{folder}: not a model bundle: {err}") from err
    if (version := description.get("schema_version")) not in (FIRST_VERSION, SCHEMA_VERSION):
        expected = f"{FIRST_VERSION} or {SCHEMA_VERSION}"
        raise UsageError(f"{folder}: bundle schema {expected} expected, got {version}")
    stated, actual = description.get("model_id"), model_id_of(weights, onnx, description)
    if stated != actual:
        raise UsageError(
            f"{folder}: content has hash {actual[:16]}, bundle.json states {str(stated)[:16]}; "
            "the files were changed or damaged: get the bundle again"
        )
    return Bundle(_spec(description), actual, folder, weights, onnx)


def _spec(description: Mapping[str, Any]) -> BundleSpec:
    fields = {f.name: description[f.name] for f in dataclasses.fields(BundleSpec)}
    rule = fields["crop_rule"]
    return BundleSpec(
        **fields
        | {
            "attributes": tuple(_attribute(item) for item in fields["attributes"]),
            "crop_rule": CropRule(
                name=rule["name"],
                size_hw=(rule["size_hw"][0], rule["size_hw"][1]),
                points=tuple(
                    TemplatePoint(tuple(p["landmarks"]), p["x"], p["y"]) for p in rule["points"]
                ),
            ),
            "calibration": _calibration(fields["calibration"]),
        }
    )


def _calibration(item: Mapping[str, Any]) -> Calibration:
    curves = {
        name: tuple(Curve(tuple(one["log_odds"]), tuple(one["probs"])) for one in found)
        for name, found in item.get("curves", {}).items()
    }
    return Calibration(
        temperatures=item["temperatures"],
        thresholds=item["thresholds"],
        abstain={name: (low, high) for name, (low, high) in item["abstain"].items()},
        biases={name: tuple(found) for name, found in item.get("biases", {}).items()},
        curves=curves,
    )


def _attribute(item: Mapping[str, Any]) -> Attribute:
    sequences = {name: tuple(item.get(name, ())) for name in ("classes", "bin_edges", "mirrored")}
    return Attribute(**{**item, **sequences, "kind": Kind(item["kind"])})


def shipped() -> dict[str, Path]:
    """Name and folder of the bundles that come with the package."""
    root = Path(str(resources.files("fattr") / "models"))
    return {path.parent.name: path.parent for path in sorted(root.glob(f"*/{DESCRIPTION}"))}


def find(name_or_folder: str) -> Bundle:
    """A shipped bundle by name, a bundle folder, or the output folder of a training run.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    if name_or_folder in shipped():
        return load(shipped()[name_or_folder])
    for folder in (Path(name_or_folder), Path(name_or_folder) / "bundle"):
        if (folder / DESCRIPTION).is_file():
            return load(folder)
    raise UsageError(
        f"unknown model {name_or_folder!r}: one of {sorted(shipped())}, a bundle folder, "
        "or the output of jobs/train.py expected"
    )
