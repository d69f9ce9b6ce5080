"""Models on a labelled data set: which engine scores it, and the scores that come of it."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias

import pyarrow as pa

from fattr.attributes import Attribute
from fattr.build import ScorePlan, build_scoring, cpu_count
from fattr.bundle import Bundle
from fattr.datasets import DatasetSplit
from fattr.errors import UsageError
from fattr.evaluation.scores import Scores
from fattr.evaluation.scoring import ModelAttributes, gather
from fattr.local_engine import score_locally
from fattr.progress import Bar

Engine = Literal["ray", "local"]
Rows: TypeAlias = Generator[pa.Table, None, None]
RAY_FROM = 20_000  # images; of fewer, Ray's start costs more than its workers save


def choose_engine(asked: Literal["auto", "ray", "local"], num_images: int) -> Engine:
    """The engine asked for; auto is this process for a small job that was given no cluster."""
    if asked != "auto":
        return asked
    return "ray" if num_images >= RAY_FROM or os.environ.get("RAY_ADDRESS") else "local"


def shared_attributes(bundle: Bundle, split: DatasetSplit) -> tuple[Attribute, ...]:
    """What the bundle predicts and the data set labels, in the bundle's order.

    Raises:
        UsageError: there is no such attribute, or no image has a label for any.
    """
    classes = {a.name: a.classes for a in split.attributes}
    shared = tuple(a for a in bundle.spec.attributes if classes.get(a.name) == a.classes)
    if not shared:
        raise UsageError(
            f"model {bundle.spec.name} predicts nothing that data set {split.name} labels "
            f"({', '.join(classes)}): choose another --data"
        )
    names = {a.name for a in shared}
    if not any(names & sample.targets.keys() for sample in split.samples):
        raise UsageError(
            f"no image of {split.name} {split.split} has a label for {', '.join(sorted(names))}:"
            " label some, or choose another --split"
        )
    return shared


def refuse_problems(split: DatasetSplit) -> None:
    """Refuse a split of which a part cannot be used: its figures would be those of the rest.

    Raises:
        UsageError: naming the first problem.
    """
    if split.problems:
        raise UsageError(
            f"data set {split.name}: {len(split.problems)} rows or folders cannot be used;"
            f" mend or remove them, the first: {split.problems[0]}"
        )


def score(
    plan: ScorePlan,
    split: DatasetSplit,
    attributes: Sequence[tuple[Attribute, ...]],
    *,
    engine: Engine,
    folder: Path,
) -> list[Scores]:
    """The scores of each of the plan's bundles, of its ``attributes``, in the split's order.

    What does not fit into memory is kept under ``folder``.

    Raises:
        UsageError: an image is missing or damaged.
        RunError: the storage or the engine failed.
    """
    models = [
        (bundle.spec.attributes, own) for bundle, own in zip(plan.bundles, attributes, strict=True)
    ]
    if engine == "local":
        rows = score_locally(split.samples, build_scoring(plan), num_threads=cpu_count())
        return _gathered(rows, split, models, folder)
    from fattr.on_ray.score import score_on_ray
    from fattr.on_ray.session import ray_session

    with ray_session():
        return _gathered(score_on_ray(plan, split.samples), split, models, folder)


def _gathered(
    rows: Rows, split: DatasetSplit, models: Sequence[ModelAttributes], folder: Path
) -> list[Scores]:
    """The scores; an engine that is still at work is stopped where a row is refused.

    Left to itself, Ray Data would go on after the session's end, and start another for that.
    """
    with closing(rows), Bar(f"scoring {split.split}", len(split.samples)) as bar:
        return gather(_counted(rows, bar), split.samples, models, folder=folder)


def _counted(rows: Rows, bar: Bar) -> Iterator[pa.Table]:
    for part in rows:
        yield part
        bar.advance(part.num_rows)
