"""The weights that all ways share: the detector's bytes, and a network of 40 random attributes."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.annotate.bare import CROP_PX, TEMPLATE
from benchmarks.annotate.labellers import Models
from fattr import bundle
from fattr.attributes import CELEBA40
from fattr.classify.calibration import Calibration
from fattr.classify.export import onnx_bytes, weights_bytes
from fattr.classify.network import AttributeNet
from fattr.detect import source
from fattr.records import CropRule, TemplatePoint
from fattr.runs.record import versions

BACKBONE = "mobilenet_v2"


def make_models(folder: Path, seed: int) -> Models:
    """Write them, unless they are there."""
    own = folder / "bundle"
    models = Models(folder / "retinaface_mnet025.onnx", own / bundle.ONNX, own)
    if not models.classifier.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        models.detector.write_bytes(source.shipped().data)
        save_untrained(models.bundle, seed)
    return models


def save_untrained(folder: Path, seed: int) -> None:
    """A bundle that costs what a trained one does and says nothing."""
    rule = crop_rule()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AttributeNet(BACKBONE, CELEBA40).eval()
    spec = bundle.BundleSpec(
        name="untrained",
        backbone=BACKBONE,
        attributes=CELEBA40,
        crop_rule=rule,
        calibration=Calibration({}, {}, {}),
        licence="for measurements only: not trained",
        research_only=False,
        training={},
        versions=versions(),
    )
    onnx = onnx_bytes(network, rule.size_hw)
    bundle.save(folder, spec, weights=weights_bytes(network), onnx=onnx)


def crop_rule() -> CropRule:
    """The yardstick's crop."""
    points = tuple(TemplatePoint((i,), z.real, z.imag) for i, z in enumerate(TEMPLATE.tolist()))
    return CropRule(name="five_points", size_hw=(CROP_PX, CROP_PX), points=points)
