"""The labelled faces of a training run: what there is, whether it can be used, and its crops."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from fattr.attributes import Attribute
from fattr.build import build_detector, cpu_count, resolve_device
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import DatasetSplit, read_dataset
from fattr.datasets.check import check_images, digest, problems, refuse_problems, without_leaks
from fattr.detect import source as detectors
from fattr.errors import UsageError
from fattr.labelled_crops import LabelledCrops, LookedAt, labelled_crops
from fattr.presets import TrainPreset
from fattr.progress import track
from fattr.records import CropRule

HELD_SHARE = 1 / 8  # of the memory: held crops lie here and once more in Ray's object store

_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")

log = logging.getLogger(__name__)


def choose_attributes(preset: TrainPreset, splits: Sequence[DatasetSplit]) -> tuple[Attribute, ...]:
    """The preset's attributes, or all that the data sets label, in their order.

    Raises:
        UsageError: a wanted attribute is labelled by none, or by two with another meaning each.
    """
    labelled: dict[str, Attribute] = {}
    for a in chain.from_iterable(split.attributes for split in splits):
        if labelled.setdefault(a.name, a) != a:
            raise UsageError(
                f"two --data declare {a.name} differently: make kind, classes, sensitive and"
                " description equal"
            )
    if not preset.attributes:
        return tuple(labelled.values())
    if missing := [name for name in preset.attributes if name not in labelled]:
        raise UsageError(f"no --data labels {', '.join(missing)}, which the preset trains")
    return tuple(labelled[name] for name in preset.attributes)


def read_split(spec: str, split: str, limit: int | None) -> DatasetSplit:
    """The first images of a split, or all.

    Raises:
        UsageError: the data set cannot be read.
    """
    read = read_dataset(spec, split)
    return dataclasses.replace(read, samples=read.samples[:limit])


def held_out_splits(specs: Sequence[str], limit: int | None) -> list[DatasetSplit]:
    """The test splits that are there: their pictures are kept out of the others."""
    found = []
    for spec in specs:
        try:
            found.append(read_split(spec, "test", limit))
        except UsageError as err:
            log.warning("no test split to keep apart: %s", err)
    return found


def check_data(
    train: Sequence[DatasetSplit], valid: Sequence[DatasetSplit], test: Sequence[DatasetSplit]
) -> tuple[list[DatasetSplit], list[DatasetSplit]]:
    """The train and valid splits, without pictures that are also in a split that measures them.

    Raises:
        UsageError: a row's labels were refused, an image of train or valid is missing or damaged,
            or nothing is left of a split.
        StorageError: the storage failed, perhaps only for now.
    """
    splits = [*train, *valid, *test]
    facts = check_images(splits, num_threads=cpu_count())
    refuse_problems(
        problems([*train, *valid], facts),
        remedy="mend or remove them; fattr describe-data --data NAME:DIR --output DIR lists all",
    )
    for line in digest(problems(splits, facts)):
        log.warning(line)
    kept, leaks = without_leaks(splits, facts)
    for name, count in Counter(leak.split for leak in leaks).items():
        log.warning("left out of %s: %d images that leak", name, count)
    return kept[: len(train)], kept[len(train) : len(train) + len(valid)]


def usable_splits(
    config: TrainConfig, train: Sequence[DatasetSplit], valid: Sequence[DatasetSplit]
) -> tuple[list[DatasetSplit], list[DatasetSplit]]:
    """``check_data`` of a job's splits, beside the test splits of the same data sets.

    Which images are left depends on more than the two splits: on the pixels, and on a test split.
    """
    return check_data(train, valid, held_out_splits(config.data, config.limit))


def cut_crops(
    config: TrainConfig,
    preset: TrainPreset,
    attributes: tuple[Attribute, ...],
    splits: Sequence[DatasetSplit],
) -> LabelledCrops:
    """Crops of all the splits, one after another; held in memory where they fit."""
    samples = list(chain.from_iterable(s.samples for s in splits))
    source = detectors.find(config.detector)
    detector = build_detector(source, config, device=resolve_device(config.device))
    rule = named_rule(preset.crop_rule, preset.crop_size_hw)

    def progress(items: Iterator[LookedAt]) -> Iterator[LookedAt]:
        return track(items, what=f"cropping {splits[0].split}", total=len(samples))

    cut = labelled_crops(
        samples,
        attributes,
        rule,
        detector=detector,
        num_threads=cpu_count(),
        progress=progress,
        held=fits(len(samples), rule, config.cache_bytes),
    )
    log.info("%s: %d faces, %.4f detected", splits[0].split, len(cut), cut.found.mean())
    return cut


def fits(num_crops: int, rule: CropRule, cache_bytes: int | None) -> bool:
    """Whether so many crops are held in memory: in ``cache_bytes``, or in a share of all of it."""
    largest = int(memory_bytes() * HELD_SHARE) if cache_bytes is None else cache_bytes
    num_bytes = num_crops * math.prod(rule.size_hw) * 3
    if num_bytes > largest:
        log.info(
            "%d crops of %.1f MB together are more than %.1f MB: cut anew in every epoch",
            num_crops,
            num_bytes / 1e6,
            largest / 1e6,
        )
    return num_bytes <= largest


def memory_bytes() -> int:
    """Memory of this machine, or of its container where that has less."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
    return machine if limit == "max" else min(machine, int(limit))


def refuse_unlabelled(splits: Sequence[DatasetSplit], attributes: Sequence[Attribute]) -> None:
    """Refuse attributes that no face of these splits has a label for.

    Raises:
        UsageError: naming them.
    """
    labelled = {name for split in splits for sample in split.samples for name in sample.targets}
    if missing := [a.name for a in attributes if a.name not in labelled]:
        raise UsageError(
            f"no face of {splits[0].split} has a label for {', '.join(missing)}: label some, or"
            " leave the attribute out of the data set"
        )
