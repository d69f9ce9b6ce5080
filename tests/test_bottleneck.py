"""What bounds a run, told from made-up seconds whose answer is known."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from fattr.bottleneck import _ADVICE_FOR_DECODERS, _ADVICE_ON_CPU, _ADVICE_ON_GPU, Crew, bottleneck
from fattr.config import AnnotateConfig

CPU = Crew(preset="cpu", uses_gpu=False, num_workers=8, num_in_flight=32)
LOCAL = Crew(preset="local", uses_gpu=False, num_workers=2, num_in_flight=16)
GPU = Crew(preset="gpu", uses_gpu=True, num_workers=2, num_decoders=16, num_in_flight=32)
MIXED = Crew(preset="mixed", uses_gpu=True, num_workers=2, num_decoders=40, num_in_flight=32)


def said(crew: Crew, *, wall_s: float = 110.0, startup_s: float = 10.0, **seconds: float) -> str:
    """Of a hundred seconds' work."""
    stages = dict.fromkeys(("fetch_s", "decode_s", "detect_s", "crop_s", "classify_s"), 0.0)
    given = {f"{name}_s": float(value) for name, value in seconds.items()}
    return bottleneck(crew, stages | given, wall_s=wall_s, startup_s=startup_s)


def test_the_whole_line():
    assert said(CPU, fetch=40, decode=64, detect=488, crop=112, classify=136) == (
        "bound by detect: 61 % of the workers' time (classify 17 %, crop 14 %, decode 8 %),"
        " workers busy 100 %: more cores or a GPU, or, in a new output, a smaller --detect-size"
        " where small faces do not matter"
    )


@pytest.mark.parametrize(
    ("crew", "seconds", "begins", "holds"),
    [
        pytest.param(CPU, {"decode": 700}, "bound by decode: 100 %", "more cores", id="decode"),
        pytest.param(
            CPU, {"crop": 500, "detect": 200}, "bound by crop: 71 %", "--model", id="crop"
        ),
        pytest.param(
            CPU, {"classify": 600}, "bound by classify", "fewer --model", id="many-models"
        ),
        pytest.param(
            CPU,
            {"fetch": 90_000, "detect": 640},
            "bound by detect",
            "workers busy 80 %",
            id="busy-workers-make-fetches-wait-not-the-other-way-round",
        ),
        pytest.param(
            CPU,
            {"fetch": 3_200, "detect": 300},
            "bound by fetch: 32 requests",
            "nearer to the images",
            id="storage-is-slow",
        ),
        pytest.param(
            CPU,
            {"fetch": 40, "detect": 300},
            "bound by no stage: 8 workers busy 38 %",
            "fewer --actors",
            id="idle",
        ),
        pytest.param(CPU, {}, "bound by no stage: 8 workers busy 0 %", "", id="nothing-readable"),
        pytest.param(
            LOCAL,
            {"fetch": 2_400, "detect": 40},
            "bound by fetch: 79 %",
            "--engine ray",
            id="a-thread-waits-for-its-own-fetches-16-at-a-time",
        ),
        pytest.param(LOCAL, {"fetch": 160, "detect": 180}, "bound by detect: 95 %", "", id="local"),
        pytest.param(
            LOCAL, {"fetch": 160, "detect": 20}, "bound by no stage", "more images", id="local-idle"
        ),
        pytest.param(
            GPU,
            {"decode": 1_500, "detect": 60},
            "bound by decode: those who decode are busy 94 %",
            "CPU cores for each GPU",
            id="a-gpu-waits-for-pixels",
        ),
        pytest.param(
            GPU,
            {"decode": 900, "detect": 150, "crop": 30},
            "bound by detect: 83 %",
            "--batch-size",
            id="gpu",
        ),
        pytest.param(
            GPU,
            {"decode": 1_300, "classify": 190},
            "bound by classify",
            "more GPUs",
            id="the-busier-of-both",
        ),
        pytest.param(
            MIXED,
            {"decode": 3_800, "detect": 60},
            "bound by decode: those who",
            "more CPU nodes",
            id="mixed",
        ),
    ],
)
def test_what_bounds_a_run(crew, seconds, begins, holds):
    line = said(crew, **seconds)
    assert line.startswith(begins), line
    assert holds in line
    assert "\n" not in line


def test_a_run_that_has_hardly_begun_is_bound_by_its_start():
    line = said(CPU, wall_s=30, startup_s=20, detect=78)
    assert line.startswith("bound by its start: 20 of 30 s")
    assert said(CPU, wall_s=30, startup_s=10, detect=158).startswith("bound by detect")


def test_actors_that_were_limited_may_be_more():
    limited = Crew(preset="cpu", uses_gpu=False, num_workers=8, num_in_flight=32, may_grow=True)
    assert "more --actors" in said(limited, detect=790)
    assert "--actors" not in said(CPU, detect=790)


def test_all_advice_is_by_flags_that_are_there():
    lines = [*_ADVICE_ON_CPU.values(), *_ADVICE_ON_GPU.values(), *_ADVICE_FOR_DECODERS.values()]
    lines += [said(CPU), said(CPU, startup_s=100), said(CPU, fetch=9_000), said(LOCAL)]
    named = set(re.findall(r"--([a-z-]+)", " ".join(lines)))
    flags = {field.name.replace("_", "-") for field in fields(AnnotateConfig)}
    assert len(named) >= 5
    assert named <= flags
