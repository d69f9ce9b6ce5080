"""Readers of labelled data sets: each turns its own layout into samples in our words."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from fattr.datasets import celeba, emotion, fairface, folder, lfwa, synthetic, table, utkface
from fattr.datasets.image_bytes import read_image
from fattr.datasets.split import SPLITS, DatasetSplit
from fattr.errors import UsageError

__all__ = ["READERS", "SPLITS", "DatasetSplit", "read_dataset", "read_image"]

READERS: dict[str, Callable[[str, str], DatasetSplit]] = {
    "celeba": celeba.read,
    "lfwa": lfwa.read,
    "fairface": fairface.read,
    "utkface": utkface.read,
    "emotion": emotion.read,
    "folder": folder.read,
    "table": table.read,
    "synthetic": synthetic.read,
}


def read_dataset(spec: str, split: str) -> DatasetSplit:
    """One split of the data set that ``spec`` names as ``NAME:DIR``; DIR may be a URI.

    Rows and folders that cannot be used do not stop it: they are the split's ``problems``.

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
