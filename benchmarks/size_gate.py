"""From which size on are faces labelled nearly as well as large ones, and found?

    python benchmarks/size_gate.py --model demographics --data fairface:DIR --count 700
    python benchmarks/size_gate.py --model celeba40 --data celeba:DIR --count 800
    python benchmarks/size_gate.py --model demographics --data table:DIR --frame-px 640

Pictures of the test split are shrunk until the face has each of the sizes; a face is never
enlarged. The gate that ``--min-face-px`` should be is the smallest size at which, and above which,
the rule of ``metrics.robustness.suggested_gate`` holds. A shrunk picture is enlarged again by the
detector, which sees the face as large as before, only less sharp. With ``--frame-px`` it is laid
into a picture of that long side, so that the detector sees the face as small as it is: give
pictures that show whole heads, for the detector finds no small face without its surroundings.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import tyro

from fattr import bundle as bundles
from fattr.build import build_classifier, build_detector
from fattr.commands.score_data import shared_attributes
from fattr.config import EvaluateConfig
from fattr.corruptions import CORRUPTIONS, with_face_px
from fattr.datasets import read_dataset
from fattr.detect import source as detectors
from fattr.evaluation.robustness import evenly_spread, robustness_figures
from fattr.metrics.robustness import suggested_gate
from fattr.report.markdown import table
from fattr.stages import Model

DROPS = (0.01, 0.02, 0.03, 0.05)  # accuracy lost, for which a gate is told


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    model: str
    """Shipped name, bundle folder or training output."""
    data: str
    """Data set as NAME:DIR."""
    count: int = 300
    """Images, spread evenly over the test split."""
    frame_px: int = 0
    """Long side of the picture that a shrunk one is laid into; 0: none."""


def size_figures(settings: Settings) -> Mapping[str, Any]:
    """The curve of face sizes, as in metrics.json."""
    bundle = bundles.find(settings.model)
    split = read_dataset(settings.data, "test")
    config = EvaluateConfig(model="", data="", output="")
    model = Model(
        build_classifier(bundle, device="cpu"),
        bundle.spec.crop_rule,
        bundle.spec.calibration,
        shared_attributes(bundle, split),
    )
    change = functools.partial(with_face_px, frame_px=settings.frame_px)
    figures = robustness_figures(
        evenly_spread(split.samples, settings.count),
        model,
        build_detector(detectors.find(config.detector), config, device="cpu"),
        min_face_px=config.min_face_px,
        corruptions={"face_size": replace(CORRUPTIONS["face_size"], change=change)},
    )
    curve: Mapping[str, Any] = figures["face_size"]
    return curve


def rows(points: Iterable[Mapping[str, Any]]) -> Iterator[list[str]]:
    """A line a size: faces, share found, accuracy, and points lost with their interval."""
    for point in points:
        cells = [f"{point['value']:g}", f"{point['n']:,}", _shown(point["detection_recall"])]
        if point["change"] is not None:
            low, high = (100 * end for end in point["intervals"]["change"])
            change = f"{100 * point['change']:+.1f} ({low:+.1f} to {high:+.1f})"
            cells += [_shown(point["accuracy"]), change, _shown(point["ece"])]
            yield cells + [_shown(share) for share in _single(point).values()]
        elif point["detection_recall"] is not None:
            yield cells + [""] * (3 + len(_single(point)))


def _single(point: Mapping[str, Any]) -> Mapping[str, float | None]:
    """The accuracy of each attribute, where they are few."""
    shares: Mapping[str, float | None] = point["attributes"]
    return shares if 1 < len(shares) <= 3 else {}


def _shown(share: float | None) -> str:
    return "" if share is None else f"{share:.3f}"


def main() -> int:
    """Print the curve as a Markdown table, and the gate for each loss that one may accept."""
    logging.basicConfig(level=logging.WARNING)
    settings = tyro.cli(Settings)
    curve = size_figures(settings)
    as_is, points = curve["as_is"], curve["points"]
    print(
        f"{settings.model}: a face in {as_is['n']} of {as_is['num_images']} images; as they are,"
        f" accuracy {_shown(as_is['accuracy'])}, ECE {_shown(as_is['ece'])}\n"
    )
    header = ["face, px", "faces", "found", "accuracy", "points lost", "ECE", *_single(as_is)]
    print("\n".join(table(header, list(rows(points)))), "\n")
    for drop in DROPS:
        gate = suggested_gate(points, max_drop=drop, min_faces=min(100, as_is["n"]))
        print(f"at most {100 * drop:g} points lost: {gate if gate is None else f'{gate:g} px'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
