"""What the files of a data set turn out to be, before anything is learned from them.

One pass reads and decodes every image; the rest is bookkeeping over its facts. Knows no data set
by name.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from PIL import Image

from fattr import images
from fattr.datasets.image_bytes import read_image
from fattr.datasets.split import SPLITS, DatasetSplit
from fattr.errors import ImageError, StorageError, UsageError
from fattr.progress import track
from fattr.records import FloatArray, Sample, Status, UInt8Array

GREY_LONG_SIDE = 128  # about what the classifiers see; equal for all, so that figures compare
# A large JPEG is decoded smaller, which changes its sharpness: by 1 % at this size on 1350-pixel
# portraits, by 6 % at half of it, by 20 % at a quarter.
DECODE_LONG_SIDE = 4 * GREY_LONG_SIDE
MAX_LINES = 20  # of an error
MAX_EXAMPLES = 3  # of a warning

LABEL, LISTED_TWICE, CONFLICT, LEAK = "label", "listed_twice", "conflicting_labels", "leak"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFacts:
    """What one file turned out to be; what could not be known of it is None.

    ``brightness`` is the mean luma (0..255), ``contrast`` its standard deviation, ``sharpness`` the
    variance of its Laplacian (low: blurred), all of the picture scaled to ``GREY_LONG_SIDE``.
    """

    image_uri: str
    status: str  # one of ok, missing, denied, unreadable, too_large
    reason: str = ""
    sha256: str | None = None  # of the bytes, in hex
    size_bytes: int | None = None
    width: int | None = None  # upright
    height: int | None = None
    brightness: float | None = None
    contrast: float | None = None
    sharpness: float | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a data set."""

    kind: str  # LABEL, a status, LISTED_TWICE, CONFLICT or LEAK
    text: str

    @property
    def is_refused(self) -> bool:
        """Whether nothing may be trained before it is mended; a copy of a picture is only told."""
        return self.kind not in (LISTED_TWICE, CONFLICT, LEAK)

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


@dataclass(frozen=True, slots=True)
class Leak:
    """An image of ``split`` whose very bytes are also in a split kept for measuring it."""

    split: str
    image_uri: str
    other_split: str
    other_uri: str

    def __str__(self) -> str:
        same = "the same file" if self.image_uri == self.other_uri else self.other_uri
        return f"{self.image_uri} of {self.split} is also in {self.other_split}: {same}"


# One pass over the files


def grey_picture(pixels: UInt8Array) -> FloatArray:
    """Luma (h, w) in 0..255 of (H, W, 3) RGB, scaled to a long side of ``GREY_LONG_SIDE``.

    Luma is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601).
    """
    grey = Image.fromarray(pixels).convert("L")
    scale = GREY_LONG_SIDE / max(grey.size)
    width, height = (max(1, round(side * scale)) for side in grey.size)
    return np.asarray(grey.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def laplacian_variance(grey: FloatArray) -> float:
    """Variance of the 4-neighbour Laplacian, borders repeated: low where a picture is blurred.

    Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000,
    https://doi.org/10.1109/ICPR.2000.903548
    """
    padded = np.pad(grey, 1, mode="edge")
    sides = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:]
    return float((sides - 4 * grey).var(dtype=np.float64))


def read_facts(image_uri: str) -> ImageFacts:
    """The facts of one image.

    Raises:
        StorageError: the storage failed, perhaps only for now.
    """
    try:
        data = read_image(image_uri)
    except StorageError as err:
        if err.status not in (Status.MISSING, Status.DENIED):
            raise
        return ImageFacts(image_uri=image_uri, status=str(err.status), reason=err.reason)
    file = ImageFacts(
        image_uri=image_uri,
        status=str(Status.OK),
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
    )
    try:
        image = images.decode(data, min_long_side=DECODE_LONG_SIDE)
    except ImageError as err:
        return replace(file, status=str(err.status), reason=err.reason)
    grey = grey_picture(image.pixels)
    return replace(
        file,
        height=image.full_size_hw[0],
        width=image.full_size_hw[1],
        brightness=float(grey.mean(dtype=np.float64)),
        contrast=float(grey.std(dtype=np.float64)),
        sharpness=laplacian_variance(grey),
    )


def check_images(splits: Sequence[DatasetSplit], *, num_threads: int) -> dict[str, ImageFacts]:
    """Facts by image URI; a file that is listed more than once is read once.

    Raises:
        StorageError: the storage failed, perhaps only for now.
    """
    uris = list(dict.fromkeys(sample.image_uri for split in splits for sample in split.samples))
    with ThreadPoolExecutor(num_threads) as pool:
        facts = track(pool.map(read_facts, uris), what="checking images", total=len(uris))
        return {one.image_uri: one for one in facts}


# What is wrong


def problems(
    splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]
) -> tuple[Problem, ...]:
    """All that is wrong with the splits, each thing once; what training refuses comes first."""
    found = chain(
        (Problem(LABEL, text) for split in splits for text in split.problems),
        _unusable(splits, facts),
        _listed_twice(splits),
        _conflicts(splits, facts),
        (Problem(LEAK, str(leak)) for leak in leaks(splits, facts)),
    )
    return tuple(dict.fromkeys(found))


def _unusable(splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]) -> Iterator[Problem]:
    for split, sample in _samples(splits):
        one = facts[sample.image_uri]
        if one.status != Status.OK:
            yield Problem(one.status, f"{one.image_uri} of {split}: {one.reason}")


def _listed_twice(splits: Sequence[DatasetSplit]) -> Iterator[Problem]:
    listed = Counter((split, sample.image_uri) for split, sample in _samples(splits))
    for (split, uri), count in listed.items():
        if count > 1:
            yield Problem(LISTED_TWICE, f"{uri} is listed {count} times in {split}")


def _conflicts(
    splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]
) -> Iterator[Problem]:
    for (split, _), samples in _by_content(splits, facts).items():
        labels = {label for sample in samples for label in sample.targets.items()}
        labelled = Counter(name for name, _ in labels)
        if names := sorted(name for name, num_values in labelled.items() if num_values > 1):
            uris = " = ".join(dict.fromkeys(sample.image_uri for sample in samples))
            yield Problem(CONFLICT, f"{uris} of {split}: {', '.join(names)}")


def repeats(splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]) -> Counter[str]:
    """By split, how many of its images are copies of another image of it."""
    copies = Counter[str]()
    for (split, _), samples in _by_content(splits, facts).items():
        copies[split] += len(samples) - 1
    return copies


def leaks(splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]) -> list[Leak]:
    """Images of ``train`` that are also in ``valid`` or ``test``, and of ``valid`` in ``test``."""
    by_content = _by_content(splits, facts)
    keepers: dict[str, tuple[str, str]] = {}  # content -> split and URI
    found = []
    for name in reversed(SPLITS):
        own = {key: samples for (split, key), samples in by_content.items() if split == name}
        found += [
            Leak(name, uri, *keepers[key])
            for key, samples in own.items()
            if key in keepers
            for uri in dict.fromkeys(sample.image_uri for sample in samples)
        ]
        for key, samples in own.items():
            keepers.setdefault(key, (name, samples[0].image_uri))
    return found


def without_leaks(
    splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]
) -> tuple[list[DatasetSplit], list[Leak]]:
    """The splits, in their order, without the images that leak, and those images.

    Raises:
        UsageError: nothing is left of a split.
    """
    found = leaks(splits, facts)
    left_out = {(leak.split, leak.image_uri) for leak in found}
    return [_without(split, left_out) for split in splits], found


def _without(split: DatasetSplit, left_out: set[tuple[str, str]]) -> DatasetSplit:
    kept = tuple(s for s in split.samples if (split.split, s.image_uri) not in left_out)
    if split.samples and not kept:
        raise UsageError(
            f"{split.name}: every image of split {split.split!r} is also in a split that measures "
            "it: give the splits different pictures"
        )
    return replace(split, samples=kept)


def _samples(splits: Sequence[DatasetSplit]) -> Iterator[tuple[str, Sample]]:
    """Split name and sample of all the splits, in their order."""
    return ((split.split, sample) for split in splits for sample in split.samples)


def _by_content(
    splits: Sequence[DatasetSplit], facts: Mapping[str, ImageFacts]
) -> dict[tuple[str, str], list[Sample]]:
    """Samples by split and bytes; those that cannot be decoded are left out."""
    groups = defaultdict[tuple[str, str], list[Sample]](list)
    for split, sample in _samples(splits):
        one = facts[sample.image_uri]
        if one.status == Status.OK and one.sha256 is not None:
            groups[split, one.sha256].append(sample)
    return groups


# What is said of it


def refuse_problems(found: Sequence[Problem], *, remedy: str) -> None:
    """Refuse data with missing or damaged images or unknown labels.

    Raises:
        UsageError: their count and the remedy, then a line each, ``MAX_LINES`` at most.
    """
    refused = [str(problem) for problem in found if problem.is_refused]
    if not refused:
        return
    lines = refused[:MAX_LINES]
    if (more := len(refused) - MAX_LINES) > 0:
        lines.append(f"and {more} more")
    count = f"{len(refused)} problem{'s' * (len(refused) > 1)} in the labelled data"
    raise UsageError("\n  ".join([f"{count}: {remedy}", *lines]))


def digest(found: Sequence[Problem]) -> list[str]:
    """One line a kind: how many, and the first few."""
    by_kind = defaultdict[str, list[str]](list)
    for problem in found:
        by_kind[problem.kind].append(problem.text)
    return [
        f"{len(texts)} x {kind}: " + "; ".join([*texts[:MAX_EXAMPLES], *_more(texts)])
        for kind, texts in by_kind.items()
    ]


def _more(texts: Sequence[str]) -> list[str]:
    more = len(texts) - MAX_EXAMPLES
    return [f"and {more} more"] if more > 0 else []
