"""``--profile``: when each worker did what, and the line that says what bounds the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping

from fattr import storage, tables
from fattr.bottleneck import Crew, bottleneck
from fattr.build import AnnotatePlan, cpu_count
from fattr.runs.run import Run
from fattr.sizing import Sizing
from fattr.spans import Recorder, Trace
from fattr.stages import Annotate, Fetch, Stage, timed

PROFILE = "profile.json"


class Profile:
    """What is learned of this attempt at a run, from now on until its images are labelled."""

    def __init__(self) -> None:
        self._began_s, self._clock = time.time(), time.monotonic()
        self._stage_seconds = dict.fromkeys(tables.STAGE_SECONDS, 0.0)
        self._trace = Trace()
        self._recorder = Recorder(self._trace.add)
        self.add_spans = self._trace.add

    def add_counts(self, counts: Mapping[str, float]) -> None:
        """Seconds of work, as in ``detect_s``, among other counts."""
        for name in tables.STAGE_SECONDS:
            self._stage_seconds[name] += counts.get(name, 0.0)

    def traced(self, fetch: Fetch, annotate: Annotate) -> Stage:
        """The same fetch; its steps, and those of ``annotate``, are put down in this process."""
        annotate.watch(took=self._recorder.took)
        return timed("fetch", fetch, self._recorder.took)

    def finish(self, run: Run, crew: Crew) -> str:
        """Write the trace; what bounds the run."""
        wall_s = time.monotonic() - self._clock
        self._recorder.tell()
        storage.write_bytes(run.file(PROFILE), self._trace.to_json())
        first = min(
            (span.started_s - self._began_s for span in self._trace.spans if span.step == "decode"),
            default=wall_s,
        )
        return bottleneck(crew, self._stage_seconds, wall_s=wall_s, startup_s=max(0.0, first))


def crew_here(plan: AnnotatePlan, fetch: Fetch) -> Crew:
    """The threads of this process."""
    return Crew(
        preset="local",
        uses_gpu=plan.device == "cuda",
        num_workers=cpu_count(),
        num_in_flight=fetch.num_in_flight,
    )


def crew_on_ray(plan: AnnotatePlan, sizing: Sizing) -> Crew:
    """The actors that a run begins with."""
    decoders = Counter(gpu=sizing.initial_actors * sizing.decode_threads, mixed=sizing.num_decoders)
    return Crew(
        preset=sizing.preset,
        uses_gpu=plan.device == "cuda",
        num_workers=sizing.initial_actors,
        num_decoders=decoders[sizing.preset],
        num_in_flight=sizing.num_in_flight,
        may_grow=plan.config.actors is not None,
    )
