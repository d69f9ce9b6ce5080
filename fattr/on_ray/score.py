"""The scoring stage on Ray Data: labelled images -> fetch tasks -> actor pool -> rows here."""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence

import pyarrow as pa
import ray
import ray.data

from fattr.build import ScorePlan, build_scoring
from fattr.errors import RunError
from fattr.evaluation.scoring import read_labelled, samples_table
from fattr.on_ray.lone import without_helpers
from fattr.on_ray.pool import in_actors, resources
from fattr.records import Sample
from fattr.sizing import FETCH_CPUS, count_actors, rows_per_block
from fattr.stages import Fetch


class ScoreActor:
    """``scoring.ScoreFaces`` in an actor; its networks are loaded there."""

    def __init__(self, plan: ScorePlan) -> None:
        self._score = build_scoring(plan)

    def __call__(self, fetched: pa.Table) -> pa.Table:
        """A block of fetched rows to scored ones."""
        return self._score(fetched)


def fetch_labelled(rows: pa.Table) -> pa.Table:
    """A block of samples with their images' bytes."""
    return Fetch(read=read_labelled)(rows)


def score_on_ray(plan: ScorePlan, samples: Sequence[Sample]) -> Generator[pa.Table, None, None]:
    """Scored rows within a Ray session, in no particular order; they are small and come here.

    To be closed, where it is not exhausted, before the session ends.

    Raises:
        RunError: Ray gave up.
    """
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    use_gpu = plan.device == "cuda"
    num_actors = count_actors(resources(), use_gpu=use_gpu)
    per_block = rows_per_block(len(samples), num_actors)
    rows = ray.data.from_arrow(samples_table(samples))
    blocks = rows.repartition(target_num_rows_per_block=per_block)
    fetched = blocks.map_batches(
        fetch_labelled, batch_size=None, batch_format="pyarrow", num_cpus=FETCH_CPUS
    )
    try:
        scored = in_actors(
            fetched,
            ScoreActor,
            (plan,),
            num_actors=num_actors,
            use_gpu=use_gpu,
        )
        with without_helpers():
            yield from scored.iter_batches(batch_size=None, batch_format="pyarrow")
    except (ray.exceptions.RayError, OSError) as err:
        problem = (str(err).strip().splitlines() or [type(err).__name__])[-1]
        raise RunError(f"the Ray engine failed: {problem}; run again, or --engine local") from err
