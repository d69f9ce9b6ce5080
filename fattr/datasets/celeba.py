"""CelebA in its own layout: 40 binary attributes of aligned faces.

    ROOT/img_align_celeba/*.jpg    ROOT/list_attr_celeba.txt    ROOT/list_eval_partition.txt

Liu et al., ICCV 2015, https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
"""

from __future__ import annotations

from fattr import storage
from fattr.datasets.celeba_labels import read_labels, read_partition
from fattr.datasets.split import DatasetSplit, check_split, collect

LICENCE = "CelebA: non-commercial research only"

_IMAGES = "img_align_celeba"
_ATTRIBUTES_FILE = "list_attr_celeba.txt"
_VALUES = {"-1": 0, "1": 1}


def read(root: str, split: str) -> DatasetSplit:
    """The images that CelebA's partition file puts in ``split``, in its order.

    Groups are perceived gender presentation and ``young``, as annotated.

    Raises:
        UsageError: a label file is missing or is none of CelebA's, or the split unknown.
    """
    check_split(split)
    partition, problems = read_partition("celeba", root)
    listed = [image for image in partition if image.split == split]
    wanted = frozenset(image.image for image in listed)
    labels = read_labels("celeba", root, _ATTRIBUTES_FILE, wanted, _VALUES)
    images = storage.join(storage.canonical_uri(root), _IMAGES)
    samples, unlabelled = collect(
        listed, lambda image: labels.sample(image, storage.join(images, image.image))
    )
    return DatasetSplit(
        name="celeba",
        split=split,
        attributes=labels.attributes,
        samples=samples,
        licence=LICENCE,
        research_only=True,
        problems=problems + unlabelled,
    )
