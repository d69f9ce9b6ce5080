import hashlib
from collections import Counter

import pytest

from fattr.datasets.split import (
    DatasetSplit,
    MalformedError,
    collect,
    hashed_split,
    in_valid_tenth,
    parse_csv,
    split_named,
)
from fattr.errors import UsageError


def test_hashed_splits_are_eight_one_one_tenths_of_the_digest():
    keys = [f"folder/{i}.jpg" for i in range(5000)]
    counts = Counter(hashed_split(key) for key in keys)
    assert 3900 < counts["train"] < 4100
    assert 430 < counts["valid"] < 570
    assert 430 < counts["test"] < 570
    for key in keys[:200]:
        digit = int(hashlib.sha256(key.encode()).hexdigest()[:16], 16) % 10
        assert hashed_split(key) == ("valid", "test", *["train"] * 8)[digit]
        assert in_valid_tenth(key) == (digit == 0)


def test_a_name_that_is_no_text_has_a_split_too():
    assert hashed_split("\udcff.jpg") in ("train", "valid", "test")


@pytest.mark.parametrize(
    ("word", "split"),
    [("", None), ("val", "valid"), (" Training", "train"), ("TEST", "test"), ("dev", None)],
)
def test_the_usual_words_for_splits(word, split):
    assert split_named(word) == split


def test_collecting_keeps_order_and_leaves_out_nothing_unsaid():
    def parse(number):
        if number % 3 == 0:
            raise MalformedError(f"{number} is bad")
        return None if number % 3 == 1 else number

    assert collect([], parse) == ((), ())
    assert collect(range(7), parse) == ((2, 5), ("0 is bad", "3 is bad", "6 is bad"))


def test_other_errors_are_not_problems_of_a_row():
    def parse(_):
        raise UsageError("the storage needs credentials")

    with pytest.raises(UsageError, match="credentials"):
        collect([1], parse)


def test_a_quoted_cell_may_hold_a_line_end_and_a_row_has_the_line_where_it_ends():
    rows, problems = parse_csv(
        "u", 'file,note\na,"two\nlines"\nb,c\nd\n', ["file"], lambda line, row: (line, row["note"])
    )
    assert rows == ((3, "two\nlines"), (4, "c"))
    assert problems == ("u, line 5: expected 2 cells, as in the header",)


def test_a_split_without_samples_needs_a_problem():
    fields = {"name": "d", "split": "train", "attributes": (), "samples": ()}
    fields |= {"licence": "", "research_only": False}
    assert DatasetSplit(**fields, problems=("p",)).problems == ("p",)
    with pytest.raises(UsageError, match=r"d: split .train. holds no image; label some"):
        DatasetSplit(**fields)
