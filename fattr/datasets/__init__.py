"""Readers of labelled data sets: each turns its own layout into samples in our words."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from fattr.datasets import celeba, fairface, synthetic
from fattr.datasets.split import SPLITS, DatasetSplit
from fattr.errors import UsageError

__all__ = ["READERS", "SPLITS", "DatasetSplit", "read_dataset"]

READERS: dict[str, Callable[[str, str], DatasetSplit]] = {
    "celeba": celeba.read,
    "fairface": fairface.read,
    "synthetic": synthetic.read,
}


def read_dataset(spec: str, split: str) -> DatasetSplit:
    """One split of the data set that ``spec`` names as ``NAME:DIR``; DIR may be a URI.

    Raises:
        UsageError: the spec has another form or an unknown name, or the data set cannot be read.
    """
    name, colon, root = spec.partition(":")
    if not colon or not root:
        raise UsageError(f"data set must be given as NAME:DIR, as celeba:/data/celeba: {spec!r}")
    if name not in READERS:
        close = difflib.get_close_matches(name, READERS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(READERS)}"
        raise UsageError(f"unknown data set {name!r}: {hint}")
    return READERS[name](root, split)
