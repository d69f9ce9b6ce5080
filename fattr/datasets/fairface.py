"""FairFace in its own layout: age, gender and race as annotated. Labels become our words here.

    ROOT/{train,val}/*.jpg    ROOT/fairface_label_{train,val}.csv

FairFace's ``val`` is our ``test``. Our ``valid`` is a tenth of its ``train``, chosen by a hash of
the file's name.
Karkkainen and Joo, WACV 2021, https://github.com/joojs/fairface
"""

from __future__ import annotations

from collections.abc import Mapping

from fattr import storage
from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION
from fattr.datasets.split import (
    DatasetSplit,
    check_split,
    in_valid_tenth,
    malformed,
    parse_csv,
    read_label_file,
)
from fattr.records import Sample

LICENCE = "CC BY 4.0 (Karkkainen and Joo, FairFace, WACV 2021)"

_LABEL_FILES = {
    "train": "fairface_label_train.csv",
    "valid": "fairface_label_train.csv",
    "test": "fairface_label_val.csv",
}
_COLUMNS = ("file", "age", "gender", "race")
_GENDERS = {"Female": "feminine", "Male": "masculine"}
# A spreadsheet takes 3-9 and 10-19 for dates, and writes them its own way, the zero and the order
# of the parts depending on its locale.
_AGES_AS_DATES = {
    frozenset({"3", "sep"}): "3-9",
    frozenset({"9", "mar"}): "3-9",
    frozenset({"19", "oct"}): "10-19",
}


def read(root: str, split: str) -> DatasetSplit:
    """The images of ``split``, in the order of FairFace's label file.

    Groups are race, perceived gender presentation and age, as annotated; no head predicts race.

    Raises:
        UsageError: a label file is missing or has another header, or the split is unknown.
    """
    check_split(split)
    uri, text = read_label_file("fairface", root, _LABEL_FILES[split])
    folder = storage.canonical_uri(root)

    def parse(line: int, row: Mapping[str, str]) -> Sample | None:
        if split != "test" and in_valid_tenth(row["file"]) != (split == "valid"):
            return None
        return _sample(folder, uri, line, row)

    samples, problems = parse_csv(uri, text, _COLUMNS, parse)
    return DatasetSplit(
        name="fairface",
        split=split,
        attributes=(AGE, PERCEIVED_GENDER_PRESENTATION),
        samples=samples,
        licence=LICENCE,
        research_only=False,
        problems=problems,
    )


def age_bin(text: str) -> str:
    """One of the classes of ``AGE`` for an age as FairFace or a spreadsheet writes it.

    ``more than 70`` is ``70+``; ``03-Sep`` is ``3-9``. An age that is neither is returned as is.
    """
    if text == "more than 70":
        return "70+"
    parts = frozenset(part.lstrip("0") for part in text.casefold().split("-"))
    return _AGES_AS_DATES.get(parts, text)


def _sample(folder: str, uri: str, line: int, row: Mapping[str, str]) -> Sample:
    age, gender = age_bin(row["age"]), _GENDERS.get(row["gender"])
    if age not in AGE.classes:
        raise malformed(uri, line, f"unknown age {row['age']!r}")
    if gender is None:
        raise malformed(uri, line, f"gender must be Female or Male, got {row['gender']!r}")
    targets = {
        AGE.name: AGE.classes.index(age),
        PERCEIVED_GENDER_PRESENTATION.name: PERCEIVED_GENDER_PRESENTATION.classes.index(gender),
    }
    groups = {"race": row["race"], PERCEIVED_GENDER_PRESENTATION.name: gender, AGE.name: age}
    return Sample(storage.join(folder, row["file"]), targets, groups)
