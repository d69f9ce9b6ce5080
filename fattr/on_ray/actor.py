"""A stage in an actor, which an image may end: the block is then done again, with care."""

from __future__ import annotations

import functools
import os
import traceback
from contextlib import closing
from types import TracebackType
from typing import ClassVar, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from fattr.build import AnnotatePlan, build_annotate
from fattr.evaluation.split import DecodeRows, LabelRows
from fattr.on_ray.ledger import Ledger
from fattr.on_ray.mailbox import Sender
from fattr.on_ray.metrics import StageMetrics
from fattr.published.publish import count_work
from fattr.published.suspects import GOT_THROUGH
from fattr.sandbox import START_TIMEOUT_S, TRIES, Alarm, Sandbox, mark_poison, try_row
from fattr.spans import OnSpans, Recorder, Took, seconds_since
from fattr.stages import Decode, Pulse, Stage


class TracedBuild(Protocol):
    """A ``Build`` whose stage tells ``took`` of its steps."""

    def __call__(self, pulse: Pulse, /, *, took: Took = seconds_since) -> Stage:
        """The stage."""


def annotate_stage(
    plan: AnnotatePlan, pulse: Pulse, *, took: Took = seconds_since, decode_threads: int = 0
) -> Stage:
    """Fetched rows to staged ones."""
    annotate = build_annotate(plan)
    annotate.watch(pulse, took=took, decode_threads=decode_threads)
    return annotate


def decode_stage(plan: AnnotatePlan, pulse: Pulse, *, took: Took = seconds_since) -> Stage:
    """Fetched rows to rows with pixels; needs no network."""
    config = plan.config
    return DecodeRows(
        Decode(long_side=config.detect_size, max_pixels=config.max_pixels, pulse=pulse, took=took)
    )


def label_stage(plan: AnnotatePlan, pulse: Pulse, *, took: Took = seconds_since) -> Stage:
    """Rows with pixels to staged ones."""
    return LabelRows(build_annotate(plan).label.watched(pulse, took))


class StageActor:
    """Blocks through a stage.

    A block is tried once at full speed, under an alarm that ends the process if no image is done in
    ``image_timeout_s``. However the process ends, Ray starts another one and gives it the block
    again; the ledger knows, and from then on the block's images go one by one through a sandbox.
    An image that ends its process there too becomes a row with status ``poison``. Should this
    process end while it waits for the sandbox (out of memory, a node that is lost), the ledger
    knows the image, and does not let it begin more often than the sandbox would. It also knows of
    all actors whether an image got through: if none did and many raised the same, the run ends.

    Args:
        build: See ``Sandbox``.
        ledger: Shared by all actors.
        image_timeout_s: See ``Sandbox``.
        on_spans: Gets the first steps of the actor, block by block; None: nobody asks. Those in the
            sandbox are not told.

    Raises:
        RunError: loading the networks ended the process a few times.
    """

    # The column that tells which rows got through, and what it says of them.
    got_through: ClassVar[tuple[str, tuple[str, ...]]] = ("status", GOT_THROUGH)

    def __init__(
        self,
        build: TracedBuild,
        ledger: Ledger,
        image_timeout_s: float,
        on_spans: OnSpans | None = None,
    ) -> None:
        self._build, self._ledger, self._image_timeout_s = build, ledger, image_timeout_s
        self._recorder = Recorder(on_spans) if on_spans else None
        key = ledger.begin_start()
        Alarm(START_TIMEOUT_S)()
        self._alarm = Alarm(image_timeout_s)
        traced = {"took": self._recorder.took} if self._recorder else {}
        self._stage = build(self._alarm, **traced)
        self._alarm.stop()
        ledger.end(key)

    def __call__(self, rows: pa.Table) -> pa.Table:
        """See the class."""
        if not rows.num_rows:
            return self._run(rows)
        block = f"{type(self).__name__} {rows['image_id'][0]}"
        if self._ledger.begin(block) == 1:
            with _EndingOnError():
                made = self._run(rows)
            self._clear_if_any(made)
        else:
            made = self._one_by_one(rows)
        self._ledger.end(block)
        return made

    def _run(self, rows: pa.Table) -> pa.Table:
        self._alarm()
        made = self._stage(rows)
        self._alarm.stop()
        if self._recorder:
            self._recorder.tell()
        return made

    def _one_by_one(self, rows: pa.Table) -> pa.Table:
        with closing(Sandbox(self._build, image_timeout_s=self._image_timeout_s)) as sandbox:
            parts = [self._with_care(rows.slice(i, 1), sandbox) for i in range(rows.num_rows)]
        return pa.concat_tables(parts)

    def _with_care(self, row: pa.Table, sandbox: Sandbox) -> pa.Table:
        stage, image_id = type(self).__name__, row["image_id"][0].as_py()
        image = f"{stage} image {image_id}"
        if self._ledger.begin(image) > TRIES:
            why = "the process that waited for it was killed twice"
            made = mark_poison(row, why, self._run)
        else:
            on_raised = functools.partial(self._ledger.raised, stage, image_id)
            made = try_row(row, sandbox, self._run, on_raised)
            self._clear_if_any(made)
        self._ledger.end(image)
        return made

    def _clear_if_any(self, made: pa.Table) -> None:
        """Tell the ledger if a row got through: each time, for it may have been made anew."""
        name, values = self.got_through
        if pc.any(pc.is_in(made[name], pa.array(values))).as_py():
            self._ledger.clear(type(self).__name__)


class AnnotateActor(StageActor):
    """The last stage: tells of the rows that are made."""

    def __init__(
        self,
        build: TracedBuild,
        ledger: Ledger,
        image_timeout_s: float,
        on_spans: OnSpans | None,
        sender: Sender,
    ) -> None:
        super().__init__(build, ledger, image_timeout_s, on_spans)
        self._sender, self._metrics = sender, StageMetrics()

    def __call__(self, rows: pa.Table) -> pa.Table:
        """See ``StageActor``."""
        staged = super().__call__(rows)
        self._sender.post(count_work(staged))
        if staged.num_rows:
            self._metrics.add(staged)
        return staged


class DecodeActor(StageActor):
    """Decodes for others."""

    got_through = ("decode_status", ("",))


class _EndingOnError:
    """What an image makes a library raise may have broken more than itself (CUDA's errors do).

    The process ends as though it had crashed; another one then finds the image.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and issubclass(kind, Exception):
            traceback.print_exception(kind, error, trace)
            os._exit(1)


def builds(plan: AnnotatePlan, decode_threads: int) -> dict[str, TracedBuild]:
    """Of each kind of actor, what it builds."""
    return {
        "annotate": functools.partial(annotate_stage, plan, decode_threads=decode_threads),
        "decode": functools.partial(decode_stage, plan),
        "label": functools.partial(label_stage, plan),
    }
