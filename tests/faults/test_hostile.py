"""Short form of ``benchmarks/hostile.py``: 300 damaged files."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import hostile
from benchmarks.faults.pictures import KINDS
from fattr import images
from fattr.errors import ImageError

pytestmark = pytest.mark.full
NUM_FILES = 300


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_every_damaged_file_is_a_row(engine, tmp_path):
    settings = hostile.Settings(files=NUM_FILES, engine=engine, seed=1)
    verdict = hostile.drill(settings, tmp_path)
    assert verdict.is_good, verdict.line
    assert {"ok", "unreadable"} <= verdict.figures["statuses"].keys()


def test_files_follow_the_seed_and_are_of_all_formats_and_damages():
    made = dict(hostile.hostile_file(3, number) for number in range(NUM_FILES))
    assert made == dict(hostile.hostile_file(3, number) for number in range(NUM_FILES))
    kinds = Counter(name.rpartition(".")[2] for name in made)
    assert kinds.keys() == {kind.lower() for kind in KINDS}
    names = " ".join(made)
    assert all(mutation.__name__ in names for mutation in hostile.MUTATIONS)


def test_some_are_still_read_and_some_are_not():
    """Files that are all sound, or all refused at once, would prove little."""
    fates = Counter()
    for number in range(160):
        _, data = hostile.hostile_file(0, number)
        try:
            images.decode(data)
            fates["read"] += 1
        except ImageError as err:
            fates[err.status] += 1
    assert fates["read"] > 20
    assert fates["unreadable"] > 20
    assert fates["too_large"] > 0
