"""What one run of one way over all images came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.annotate.labellers import Models
from fattr.build import cpu_count
from fattr.records import FloatArray


@dataclass(frozen=True, slots=True)
class Job:
    """The same for all ways."""

    images: Path  # a folder that holds nothing else
    paths: Sequence[Path]
    models: Models
    num_processes: int
    folder: Path  # to work in, empty at the start of each turn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Turn:
    """Figures of a run."""

    images_per_s: float  # start-up left out
    startup_s: float  # until the first images were done
    whole_s: float
    stage_ms: Mapping[str, float]  # of an image, by stage, where that is known
    own_busy: float  # share of all cores, while ``images_per_s`` was measured
    other_busy: float  # the same of all other processes: 0 on a quiet machine
    peak_mb: Mapping[str, float]  # of the largest process of each kind
    boxes: Mapping[str, FloatArray]  # (N, 4) by file name

    @property
    def cpu_ms(self) -> float:
        """Of all its processes for an image, while ``images_per_s`` was measured."""
        return 1e3 * self.own_busy * cpu_count() / self.images_per_s

    @property
    def num_faces(self) -> int:
        """In all images."""
        return sum(len(found) for found in self.boxes.values())

    def to_json(self) -> dict[str, Any]:
        """All but the boxes."""
        names = [field.name for field in fields(self) if field.name != "boxes"]
        figures = {name: getattr(self, name) for name in names}
        return figures | {"cpu_ms": self.cpu_ms, "num_faces": self.num_faces}


Way: TypeAlias = Callable[[Job], Turn]
