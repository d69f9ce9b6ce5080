"""Predictions and figures of a network while it is trained, by all workers together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fattr.attributes import Attribute
from fattr.classify.calibration import Calibration, probabilities
from fattr.classify.classifier import BATCH_SIZE, AttributeClassifier, torch_forward
from fattr.classify.network import AttributeNet
from fattr.labelled_crops import LabelledCrops
from fattr.metrics.attribute import Metrics, attribute_metrics, macro
from fattr.records import FloatArray
from fattr.train.context import TrainContext
from fattr.train.losses import multi_task_loss


def predict_logits(
    network: AttributeNet,
    data: LabelledCrops,
    attributes: Sequence[Attribute],
    device: torch.device,
) -> FloatArray:
    """Logits (N, L) of every crop, in evaluation mode."""
    forward = torch_forward(network, device=str(device))
    classifier = AttributeClassifier(forward, attributes, Calibration(), batch_size=BATCH_SIZE)
    return classifier.logits(data.crops)


def figures(
    logits: FloatArray, targets: NDArray[np.int64], attributes: Sequence[Attribute]
) -> dict[str, float]:
    """``score``, ``loss``, macro metrics, and ``METRIC/attribute`` of uncalibrated predictions.

    ``score`` is the mean accuracy over all attributes, age by its exact bin; ``loss`` the log loss.
    """
    probs = probabilities(logits, attributes, Calibration())
    by_name = {
        a.name: attribute_metrics(a, targets[:, i], probs[a.name]) for i, a in enumerate(attributes)
    }
    loss = multi_task_loss(torch.from_numpy(logits), torch.from_numpy(targets), attributes)
    accuracies = [m["accuracy"] for m in by_name.values() if m["accuracy"] is not None]
    out = {"score": float(np.mean(accuracies)), "loss": float(loss)}
    return out | _numbers(macro(by_name, attributes)) | _by_attribute(by_name)


def _numbers(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _by_attribute(by_name: Mapping[str, Metrics]) -> dict[str, float]:
    wanted = ("accuracy", "one_off_accuracy", "f1", "average_precision")
    return {
        f"{metric}/{name}": metrics[metric]
        for name, metrics in by_name.items()
        for metric in wanted
        if metrics.get(metric) is not None
    }


class Measured:
    """Samples whose figures all workers find together: worker r of W predicts every W-th.

    ``chosen`` (N,) are indices of the data, in ascending order.
    """

    def __init__(
        self, context: TrainContext, data: LabelledCrops, chosen: NDArray[np.int64]
    ) -> None:
        self._context, self._targets = context, data.targets[chosen]
        own = chosen[context.rank :: context.world_size]
        self._own = data if len(own) == len(data) else data.part(own)  # not copied if it is all

    def figures(self, network: AttributeNet, attributes: Sequence[Attribute]) -> dict[str, float]:
        """``figures`` of them all on rank 0, nothing elsewhere."""
        own = predict_logits(network, self._own, attributes, self._context.device)
        parts = self._context.gathered(own)
        if parts is None:
            return {}
        logits = np.empty((len(self._targets), own.shape[1]), own.dtype)
        for rank, part in enumerate(parts):
            logits[rank :: len(parts)] = part
        return figures(logits, self._targets, attributes)


def some_of(num_samples: int, num_chosen: int, *, seed: int) -> NDArray[np.int64]:
    """That many indices, or all where there are fewer, always the same ones, ascending."""
    return np.sort(np.random.default_rng(seed).permutation(num_samples)[:num_chosen])
