"""The part of an evaluation that people look at: mistakes as pages, and labels to correct.

It writes faces, so only where it was asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fattr.attributes import Attribute
from fattr.build import build_detector, cpu_count, resolve_device
from fattr.bundle import Bundle
from fattr.config import EvaluateConfig
from fattr.datasets import SPLITS, DatasetSplit, read_dataset
from fattr.detect.source import DetectorSource
from fattr.errors import UsageError
from fattr.evaluation.figures import answers_of
from fattr.evaluation.review import AttributeReview, Finding, Review, review, write_relabel
from fattr.evaluation.scores import Scores
from fattr.labelled_crops import labelled_crops
from fattr.metrics.by_group import group_members
from fattr.progress import track
from fattr.records import UInt8Array
from fattr.report.mistakes import Section, ShownFace, mistakes_png

log = logging.getLogger(__name__)


def write_review(
    config: EvaluateConfig,
    bundle: Bundle,
    split: DatasetSplit,
    source: DetectorSource | None,
    scores: Scores,
    output: Path,
) -> dict[str, Any]:
    """Write ``review/ATTRIBUTE.png`` and ``relabel/``; ``mistakes`` of ``metrics.json``.

    ``scores`` may be those of the first images of ``split`` only: the others stay as they are.

    Raises:
        StorageError: an image cannot be read again, or the folder not be written.
    """
    spec = bundle.spec
    answers = answers_of(scores, spec.calibration, model=spec.name, model_id=bundle.model_id)
    members = group_members({name: scores.groups(name) for name in config.group_names})
    found = review(scores, answers, members, split=split.split)
    if found.caution:
        log.warning("review: %s", found.caution)
    crops = _crops(config, bundle, split, source, found)
    (output / "review").mkdir()
    for one in found.attributes:
        page = _page(one, split, crops)
        (output / "review" / f"{one.attribute.name}.png").write_bytes(page)
    folder = (output / "relabel").as_uri()
    num_queued = write_relabel(folder, found.queue, split, _other_splits(config, split))
    log.info("review: %d faces to look at in relabel/relabel.csv", num_queued)
    return found.figures()


def _crops(
    config: EvaluateConfig,
    bundle: Bundle,
    split: DatasetSplit,
    source: DetectorSource | None,
    found: Review,
) -> dict[int, UInt8Array]:
    """The crops of the faces on the pages, cut once more."""
    shown = [f for one in found.attributes for f in (*one.mistakes, *one.label_errors)]
    faces = sorted({finding.face for finding in shown})
    detector = None
    if source:
        detector = build_detector(source, config, device=resolve_device(config.device))
    cut = labelled_crops(
        [split.samples[face] for face in faces],
        (),
        bundle.spec.crop_rule,
        detector=detector,
        num_threads=cpu_count(),
        progress=lambda items: track(items, what="cutting mistakes", total=len(faces)),
    )
    return {face: cut.crop(i) for i, face in enumerate(faces)}


def _page(one: AttributeReview, split: DatasetSplit, crops: dict[int, UInt8Array]) -> bytes:
    def shown(findings: Sequence[Finding], attribute: Attribute) -> list[ShownFace]:
        return [
            ShownFace(
                crops[finding.face],
                *finding.caption(attribute),
                split.samples[finding.face].image_uri.rpartition("/")[2],
            )
            for finding in findings
        ]

    attribute = one.attribute
    return mistakes_png(
        f"{attribute.name}: {one.num_mistakes} of {one.n} labels contradicted",
        f"{one.num_confident} of them confidently; {one.num_label_errors} labels likely wrong",
        [
            Section("Most confident mistakes", shown(one.mistakes, attribute)),
            Section("Likely label errors", shown(one.label_errors, attribute)),
        ],
    )


def _other_splits(config: EvaluateConfig, split: DatasetSplit) -> list[DatasetSplit]:
    """The data set's other splits that are there: the table to correct stands in for all of it."""
    others = []
    for name in SPLITS:
        if name == split.split:
            continue
        try:
            other = read_dataset(config.data, name)
        except UsageError as err:
            log.warning("relabel: without split %s: %s", name, err)
            continue
        if other.problems:
            log.warning("relabel: %s loses %d refused rows", name, len(other.problems))
        others.append(other)
    return others
