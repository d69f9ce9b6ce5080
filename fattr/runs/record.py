"""What was done: run ids, versions, and ``run.json``."""

from __future__ import annotations

import json
import platform
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from fattr import storage
from fattr.runs.timeline import Timeline

PACKAGES = (
    "fattr",
    "ray",
    "torch",
    "torchvision",
    "onnxruntime",
    "ncnn",
    "simplejpeg",
    "pillow",
    "pyarrow",
    "numpy",
)


def new_run_id(started: datetime) -> str:
    """Sorts by time, unique without coordination: ``20261123T211700Z-3f9c1a``."""
    return f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def versions() -> dict[str, str]:
    """Python and the packages that can change a result."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def write_json(uri: str, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    storage.write_bytes(uri, text.encode() + b"\n")


class RunRecord:
    """The ``run.json`` of a run, written again at each of its steps; a continued run's grows."""

    def __init__(self, uri: str, content: Mapping[str, Any]) -> None:
        self._uri, self.content = uri, dict(content)
        self.timeline = Timeline.from_json(self.content.get("timeline"))
        self._clock = time.monotonic()
        self._seconds_before = float(self.content.get("seconds", 0))

    @property
    def seconds(self) -> float:
        """At work on the run, earlier attempts that left word included."""
        return self._seconds_before + time.monotonic() - self._clock

    def note(self, event: str, **content: Any) -> None:  # noqa: ANN401 -- JSON
        """Put down an event, and what is known from now on."""
        self.timeline.event(event, datetime.now(UTC))
        self.content |= content
        self.content |= {"seconds": round(self.seconds, 2), "timeline": self.timeline.to_json()}
        write_json(self._uri, self.content)
