"""ImageNet weights of the backbones: from an installed package, or downloaded when asked for."""

from __future__ import annotations

import hashlib
import logging
from http.client import HTTPException
from pathlib import Path

import torch
from torchvision import models

from fattr import weights
from fattr.classify.backbones import backbone_named
from fattr.errors import UsageError

log = logging.getLogger(__name__)


def imagenet_checkpoint(backbone: str) -> Path:
    """File of torchvision's ImageNet weights, which ``load_backbone`` takes.

    MobileNetV2's come with a package; others are downloaded into torch's cache unless there.

    Raises:
        UsageError: there are none, or they are neither there nor to be had.
    """
    backbone_named(backbone)
    if backbone == "mobilenet_v2":
        return weights.imagenet_mobilenet_v2()
    if backbone not in models.list_models(module=models):
        raise UsageError(f"no ImageNet weights exist for {backbone}: use --init none or FILE")
    return downloaded(models.get_model_weights(backbone).DEFAULT.url)


def downloaded(url: str) -> Path:
    """The file at ``url``, in torch's cache; its name ends in the first digits of its SHA-256.

    Raises:
        UsageError: it cannot be fetched, or has another hash.
    """
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    stated = path.stem.rpartition("-")[2]
    if not path.is_file():
        log.info("downloading %s", url)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=stated, progress=False)
        except (OSError, HTTPException, RuntimeError) as err:
            raise UsageError(
                f"{name} cannot be downloaded ({err}): fetch {url} by other means and use "
                "--init FILE"
            ) from err
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if not got.startswith(stated):
        raise UsageError(f"{path}: SHA-256 {got} found, {stated}... expected; delete the file")
    return path
