"""What TensorBoard and ``history.parquet`` show of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

from fattr.attributes import Attribute, Kind
from fattr.records import FloatArray, UInt8Array

FOLDER, HISTORY = "tensorboard", "history.parquet"


class Tracker:
    """Writes TensorBoard events into a run's folder as it goes; a context manager.

    Args:
        output: The run's folder.
        is_whole: These events tell the run from its beginning: TensorBoard forgets those that the
            folder held before.
    """

    def __init__(self, output: Path, *, is_whole: bool = False) -> None:
        self._writer = SummaryWriter(str(output / FOLDER), purge_step=0 if is_whole else None)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def epoch(self, metrics: Mapping[str, float]) -> None:
        """The scalars of one epoch."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, int(metrics["epoch"]))
        self._writer.flush()

    def crops(self, examples: UInt8Array) -> None:
        """Crops (samples, variants, h, w, 3) as one image a sample."""
        for number, row in enumerate(examples):
            self._writer.add_images(f"crops/{number}", row, 0, dataformats="NHWC")

    def precision_recall(
        self,
        attributes: Sequence[Attribute],
        targets: NDArray[Any],
        probs: Mapping[str, FloatArray],
        epoch: int,
    ) -> None:
        """Curves of binary attributes and of each class of categorical ones."""
        for i, attribute in enumerate(attributes):
            known, labels = targets[:, i] >= 0, targets[:, i]
            if attribute.kind is Kind.AGE or not known.any():
                continue
            by_class = probs[attribute.name][known]
            if attribute.kind is Kind.BINARY:
                self._writer.add_pr_curve(attribute.name, labels[known], by_class, epoch)
                continue
            for k, name in enumerate(attribute.classes):
                self._writer.add_pr_curve(
                    f"{attribute.name}/{name}", labels[known] == k, by_class[:, k], epoch
                )


def write_history(output: Path, history: Sequence[Mapping[str, float]]) -> None:
    """``history.parquet``: one row an epoch."""
    names = list(dict.fromkeys(name for row in history for name in row))
    columns = {name: [row.get(name) for row in history] for name in names}
    pq.write_table(pa.table(columns), output / HISTORY)
