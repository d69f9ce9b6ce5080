"""UTKFace: age, gender and race as annotated, all in the file's name.

    ROOT/**/[age]_[gender]_[race]_[date and time].jpg[.chip.jpg]

Age is in years, gender 0 male or 1 female, race 0 to 4: White, Black, Asian, Indian, Others. It has
no splits: 80 % are ``train``, 10 % ``valid`` and 10 % ``test``, by a hash of the file's name up to
its first dot, so that a picture and the crop of it (``.chip.jpg``) are in the same.
Zhang, Song and Qi, CVPR 2017, https://susanqq.github.io/UTKFace/
"""

from __future__ import annotations

import re

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION
from fattr.datasets.split import (
    DatasetSplit,
    MalformedError,
    check_split,
    collect,
    hashed_split,
    list_folder,
)
from fattr.records import Sample

LICENCE = "UTKFace: non-commercial research only"

MAX_AGE = 116  # the oldest, as published

# One published name has no dot before its first "jpg", another a blank.
_NAME = re.compile(r"(?P<age>\d+)_(?P<gender>[01])_(?P<race>[0-4])_\d{8,}\D*", re.IGNORECASE)
_GENDERS = {"0": "masculine", "1": "feminine"}
_RACES = ("White", "Black", "Asian", "Indian", "Others")


def read(root: str, split: str) -> DatasetSplit:
    """The pictures of ``split``, in the order of their URIs; files other than ``.jpg`` are none.

    Groups are race, perceived gender presentation and age, as annotated; no head predicts race.
    A name that lacks a field, as some published ones do, is a problem; nothing is guessed.

    Raises:
        UsageError: there is no picture, the folder cannot be listed, or the split is unknown.
    """
    check_split(split)
    files = ((uri, path.rpartition("/")[2]) for uri, path in list_folder("utkface", root))
    samples, problems = collect(
        (
            (uri, name)
            for uri, name in files
            if name.casefold().endswith(".jpg") and hashed_split(name.partition(".")[0]) == split
        ),
        _sample,
    )
    return DatasetSplit(
        name="utkface",
        split=split,
        attributes=(AGE, PERCEIVED_GENDER_PRESENTATION),
        samples=samples,
        licence=LICENCE,
        research_only=True,
        problems=problems,
    )


def _sample(file: tuple[str, str]) -> Sample:
    uri, name = file
    match = _NAME.fullmatch(name)
    if match is None or int(match["age"]) > MAX_AGE:
        raise MalformedError(
            f"{uri}: the name must be age_gender_race_time.jpg, age 0 to {MAX_AGE}, gender 0 or 1,"
            " race 0 to 4; rename or remove it"
        )
    gender, age = _GENDERS[match["gender"]], AGE.target_of(match["age"])
    assert age is not None, "AGE has a bin for every age from 0"
    groups = {
        "race": _RACES[int(match["race"])],
        PERCEIVED_GENDER_PRESENTATION.name: gender,
        AGE.name: AGE.classes[age],
    }
    targets = {
        AGE.name: age,
        PERCEIVED_GENDER_PRESENTATION.name: PERCEIVED_GENDER_PRESENTATION.classes.index(gender),
    }
    return Sample(uri, targets, groups)
