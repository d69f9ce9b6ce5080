"""From the last checkpoint to a bundle: best weights, calibration on `valid`, files, card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from fattr import bundle
from fattr.bundle import Bundle, BundleSpec
from fattr.classify import calibration as calibrate
from fattr.classify.export import onnx_bytes, weights_bytes
from fattr.classify.fit_calibration import fit
from fattr.classify.network import AttributeNet
from fattr.datasets import DatasetSplit
from fattr.labelled_crops import LabelledCrops
from fattr.metrics.attribute import attribute_metrics, macro
from fattr.records import CropRule
from fattr.runs.record import versions
from fattr.train import checkpoint
from fattr.train.plan import TrainPlan
from fattr.train.validate import predict_logits


def valid_figures(
    network: AttributeNet, valid: LabelledCrops, plan: TrainPlan
) -> tuple[calibrate.Calibration, dict[str, Any]]:
    """Calibration fitted on `valid`, and the metrics there."""
    logits = predict_logits(network, valid, plan.attributes, torch.device("cpu"))
    fitted = fit(logits, valid.targets, plan.attributes)
    probs = calibrate.probabilities(logits, plan.attributes, fitted)
    by_name = {
        a.name: attribute_metrics(
            a, valid.targets[:, i], probs[a.name], fitted.thresholds.get(a.name, 0.5)
        )
        for i, a in enumerate(plan.attributes)
    }
    accuracy = {name: metrics["accuracy"] for name, metrics in by_name.items()}
    return fitted, {"macro": macro(by_name, plan.attributes), "accuracy": accuracy}


def licences(splits: Sequence[DatasetSplit], init_bundle: Bundle | None = None) -> str:
    """The licences of all training data, and of the model started from, one line."""
    found = [split.licence for split in splits]
    if init_bundle:
        found.append(init_bundle.spec.licence)
    return "; ".join(dict.fromkeys(found))


def make_bundle(
    folder: Path,
    *,
    name: str,
    plan: TrainPlan,
    rule: CropRule,
    state: checkpoint.TrainState,
    valid: LabelledCrops,
    splits: Sequence[DatasetSplit],
    training: Mapping[str, Any],
) -> Bundle:
    """Write the bundle of the best epoch of a finished run."""
    network = AttributeNet(plan.backbone, plan.attributes)
    network.load_state_dict(state.best_weights)
    network.eval()
    fitted, figures = valid_figures(network, valid, plan)
    spec = BundleSpec(
        name=name,
        backbone=plan.backbone,
        attributes=plan.attributes,
        crop_rule=rule,
        calibration=fitted,
        licence=licences(splits, plan.init_bundle),
        research_only=any(split.research_only for split in splits)
        or (plan.init_bundle is not None and plan.init_bundle.spec.research_only),
        training={**training, "best_epoch": state.best_epoch, "valid": figures},
        versions=versions(),
    )
    return bundle.save(
        folder, spec, weights=weights_bytes(network), onnx=onnx_bytes(network, rule.size_hw)
    )
