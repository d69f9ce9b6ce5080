"""Faces sorted by the expression they show, in the layout in which FER2013 and others are shared.

    ROOT/CLASS/*.jpg    or    ROOT/{train,valid,test}/CLASS/*.jpg

Folders are named as FER2013 (Goodfellow et al., 2013,
https://www.kaggle.com/datasets/msambare/fer2013), RAF-DB (Li et al., CVPR 2017,
http://www.whdeld.cn/RAF/model1.html) or AffectNet (Mollahosseini et al., 2017,
http://mohammadmahoor.com/affectnet/) name the expressions, or numbered 1 to 7 as RAF-DB numbers
them.
"""

from __future__ import annotations

from fattr.attributes import EMOTION
from fattr.datasets.class_folders import read_class_folders
from fattr.datasets.split import DatasetSplit

LICENCE = "face expressions (FER2013, RAF-DB, AffectNet or alike): non-commercial research only"

_SYNONYMS = {
    "angry": "anger",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happy": "happiness",
    "sad": "sadness",
    "surprised": "surprise",
}
_RAF_DB = {
    "1": "surprise",
    "2": "fear",
    "3": "disgust",
    "4": "happiness",
    "5": "sadness",
    "6": "anger",
    "7": "neutral",
}


def read(root: str, split: str) -> DatasetSplit:
    """The images of ``split``, each with the expression that its folder names.

    A folder whose name is no expression is a problem. FER2013 and AffectNet number from 0, and
    otherwise than RAF-DB: where there is a number that RAF-DB lacks, all numbers are problems.

    Raises:
        UsageError: there is no image, the folder cannot be listed, or the split is unknown.
    """
    return read_class_folders(
        "emotion", root, split, EMOTION, _targets_of, licence=LICENCE, research_only=True
    )


def _targets_of(folders: frozenset[str]) -> dict[str, int]:
    numbers = {name for name in folders if name.isdecimal()}
    words = _SYNONYMS | (_RAF_DB if numbers <= _RAF_DB.keys() else {})
    targets = {}
    for name in folders:
        key = name.strip().casefold()
        target = EMOTION.target_of(words.get(key, key))
        if target is not None:
            targets[name] = target
    return targets
