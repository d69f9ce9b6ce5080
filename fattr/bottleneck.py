"""What bounds an annotate run, and what to change: one line, from the seconds its stages took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

BUSY = 0.75  # of their time: what workers do is then what the run waits for
LATE = 0.5  # of the run: so long before the first image is no matter of the stages
FETCHING = 0.5  # of one fetch's requests under way all the time: the storage has its hands full

_SMALLER = "in a new output, a smaller --detect-size"
_ADVICE_ON_CPU = {
    "fetch": "--engine ray fetches beside the labelling; or run it nearer to the images",
    "decode": f"more cores, or, {_SMALLER}: large JPEGs are then decoded smaller, too",
    "detect": f"more cores or a GPU, or, {_SMALLER} where small faces do not matter",
    "crop": "more cores, or fewer --model: each cuts its own crops",
    "classify": "more cores or a GPU, or fewer --model",
}
_ADVICE_ON_GPU = _ADVICE_ON_CPU | {
    "decode": "--engine ray decodes ahead on more threads",
    "detect": f"a larger --batch-size, more GPUs, or, {_SMALLER} where small faces do not matter",
    "crop": "faster cores, or fewer --model: each cuts its own crops",
    "classify": "more GPUs, or fewer --model",
}
_ADVICE_FOR_DECODERS = {
    "gpu": "more CPU cores for each GPU, or --preset mixed on a cluster with nodes of CPUs alone",
    "mixed": "more CPU nodes",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """Who did the work of a run.

    Attributes:
        preset: ``local`` is the engine of one process, the others are of Ray.
        uses_gpu: Whether the networks ran on one.
        num_workers: Threads or actors that find and label faces.
        num_decoders: Threads or actors that decode for them; 0: they decode themselves.
        num_in_flight: Requests of one fetch at a time. A local worker waits for its own fetches,
            on Ray others make them.
        may_grow: Whether the caller asked for a number of workers that there may be more of.
    """

    preset: Literal["local", "cpu", "gpu", "mixed"]
    uses_gpu: bool
    num_workers: int
    num_decoders: int = 0
    num_in_flight: int
    may_grow: bool = False


def bottleneck(
    crew: Crew, stage_seconds: Mapping[str, float], *, wall_s: float, startup_s: float
) -> str:
    """One line: what bounds the run, and what to change.

    Args:
        crew: Who worked.
        stage_seconds: Of each stage, as in ``detect_s``, summed over all images.
        wall_s: Seconds from the command's start until all images were labelled.
        startup_s: Seconds of these before the first image was decoded.
    """
    if startup_s > LATE * wall_s:
        return (
            f"bound by its start: {startup_s:.0f} of {wall_s:.0f} s had passed before the first"
            " image (listing, loading models, starting workers): give it more images a run;"
            " --engine auto starts no workers for few, an S3 Inventory spares the listing"
        )
    working_s = max(wall_s - startup_s, 1e-9)
    seconds = {name.removesuffix("_s"): total for name, total in stage_seconds.items()}
    own = _own_seconds(crew, seconds)
    busy = sum(own.values()) / (crew.num_workers * working_s)
    decoding = seconds["decode"] / (crew.num_decoders * working_s) if crew.num_decoders else 0.0
    if decoding >= BUSY and decoding > busy:
        said = f"bound by decode: those who decode are busy {_percent(decoding)}, workers"
        return f"{said} {_percent(busy)}: {_ADVICE_FOR_DECODERS[crew.preset]}"
    if busy >= BUSY:
        return f"bound by {_shares(own)}, workers busy {_percent(busy)}: {_advice(crew, own)}"
    in_flight = seconds["fetch"] / working_s
    if crew.preset != "local" and in_flight >= FETCHING * crew.num_in_flight:
        return (
            f"bound by fetch: {in_flight:.0f} requests under way on average, workers busy"
            f" {_percent(busy)}: run it nearer to the images, or on more nodes"
        )
    return (
        f"bound by no stage: {crew.num_workers} workers busy {_percent(busy)} and storage at rest:"
        " too few images for so many workers, or something else keeps the machine busy; give it"
        f" more images a run{'' if crew.preset == 'local' else ', or fewer --actors'}"
    )


def _own_seconds(crew: Crew, seconds: Mapping[str, float]) -> dict[str, float]:
    """Of the workers themselves, by stage, the longest first."""
    others = {"decode"} if crew.num_decoders else set[str]()
    if crew.preset != "local":
        others.add("fetch")
    own = {stage: total for stage, total in seconds.items() if stage not in others}
    if "fetch" in own:
        own["fetch"] /= crew.num_in_flight  # a worker waits for all of them at once
    return dict(sorted(own.items(), key=lambda item: -item[1]))


def _shares(own: Mapping[str, float]) -> str:
    """``detect: 61 % of the workers' time (crop 14 %, ...)``."""
    total = sum(own.values())
    (first, longest), *rest = own.items()
    others = ", ".join(f"{stage} {_percent(s / total)}" for stage, s in rest)
    return f"{first}: {_percent(longest / total)} of the workers' time ({others})"


def _advice(crew: Crew, own: Mapping[str, float]) -> str:
    advice = (_ADVICE_ON_GPU if crew.uses_gpu else _ADVICE_ON_CPU)[next(iter(own))]
    return f"more --actors where there is room, {advice}" if crew.may_grow else advice


def _percent(share: float) -> str:
    """Of what may pass 100 % by rounding, or where a pool grew."""
    return f"{100 * min(share, 1):.0f} %"
