"""Images of one's own, in one folder for each class of one attribute.

    ROOT/fattr.toml    ROOT/CLASS/*.jpg    or    ROOT/{train,valid,test}/CLASS/*.jpg

Folders are named as the attribute's classes, or ``true`` and ``false``, in any case. The mapping
file names the attribute; one that the vocabulary lacks is declared there:

    licence = "our own photographs"      # goes into the card of a model that is trained on them
    research_only = false                # the default

    [attribute]
    name = "face_mask"
    kind = "categorical"                 # binary, categorical or age
    classes = ["none", "cloth", "surgical"]
    sensitive = false
    description = "what covers mouth and nose"
"""

from __future__ import annotations

from fattr.datasets.class_folders import read_class_folders
from fattr.datasets.mapping_file import DECLARATION, declared_attribute, read_mapping
from fattr.datasets.split import DatasetSplit


def read(root: str, split: str) -> DatasetSplit:
    """The images of ``split``, each with the class that its folder names; no groups.

    Raises:
        UsageError: the mapping file is missing or wrong, there is no image, or no such split.
    """
    mapping = read_mapping("folder", root)
    mapping.refuse_others(("licence", "research_only", "attribute"))
    section = mapping.section("attribute")
    section.refuse_others(("name", *DECLARATION))
    attribute = declared_attribute(section.need("name", str), section)

    def targets_of(folders: frozenset[str]) -> dict[str, int]:
        targets = {name: attribute.target_of(name) for name in folders}
        return {name: target for name, target in targets.items() if target is not None}

    return read_class_folders(
        "folder",
        root,
        split,
        attribute,
        targets_of,
        licence=mapping.need("licence", str),
        research_only=mapping.get("research_only", bool, False),
    )
