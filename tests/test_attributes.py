import itertools
import math
import re
from pathlib import Path

import pytest

from fattr.attributes import (
    AGE,
    CELEBA40,
    CONTRADICTIONS,
    VOCABULARY,
    Attribute,
    Kind,
    attribute,
)
from fattr.errors import UsageError

CELEBA_NAMES = """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips
Big_Nose Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses
Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes
No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling
Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
Wearing_Necktie Young"""
CELEBA_HEADER = re.split(r"\s+", CELEBA_NAMES)
RENAMED = {"5_o_Clock_Shadow": "five_o_clock_shadow", "Male": "perceived_gender_presentation"}
CELEBA_FILE = Path(__file__).parents[2] / "shared" / "data" / "celeba" / "list_attr_celeba.txt"


def test_celebas_forty_in_celebas_order():
    assert len(CELEBA_HEADER) == 40
    wanted = [RENAMED.get(name, name.lower()) for name in CELEBA_HEADER]
    assert [a.name for a in CELEBA40] == wanted


def test_the_header_above_is_that_of_the_published_file():
    if not CELEBA_FILE.is_file():
        pytest.skip("CelebA's list_attr_celeba.txt is not here")
    with CELEBA_FILE.open() as file:
        header = [next(file), next(file)][1]
    assert header.split() == CELEBA_HEADER


def test_exactly_these_are_sensitive():
    assert {name for name, a in VOCABULARY.items() if a.sensitive} == {
        "age",
        "young",
        "perceived_gender_presentation",
        "attractive",
        "chubby",
        "double_chin",
        "big_nose",
        "big_lips",
        "pale_skin",
        "emotion",
    }


def test_celebas_male_is_the_class_after_feminine():
    presentation = attribute("perceived_gender_presentation")
    assert presentation.classes == ("feminine", "masculine")  # CelebA: 0 female, 1 male
    assert (presentation.num_logits, presentation.num_values) == (2, 2)


def test_fairfaces_age_bins_say_their_years():
    for text, low, high in zip(AGE.classes, AGE.bin_edges[:-1], AGE.bin_edges[1:], strict=True):
        first, _, last = text.partition("-")
        assert float(first.rstrip("+")) == low
        assert text == "70+" or float(last) == high - 1


def test_a_binary_attribute_has_one_logit_and_two_values():
    smiling = attribute("smiling")
    assert (smiling.kind, smiling.num_logits, smiling.num_values) == (Kind.BINARY, 1, 2)


@pytest.mark.parametrize(
    ("name", "word", "target"),
    [
        pytest.param("smiling", "", None, id="empty"),
        pytest.param("smiling", "True", 1, id="true"),
        pytest.param("smiling", " false ", 0, id="blanks"),
        pytest.param("smiling", "0", 0, id="digit"),
        pytest.param("smiling", "-1", None, id="celebas-false-is-not-ours"),
        pytest.param("smiling", "yes", None, id="another-word"),
        pytest.param("perceived_gender_presentation", "MASCULINE", 1, id="class"),
        pytest.param("perceived_gender_presentation", "1", None, id="no-digit-for-a-class"),
        pytest.param("age", "70+", 8, id="bin"),
        pytest.param("age", "3-9", 1, id="bin-that-is-no-number"),
        pytest.param("age", "-1", None, id="below"),
        pytest.param("age", "nan", None, id="nan"),
        pytest.param("age", "inf", None, id="infinite"),
        pytest.param("age", "2.9", 0, id="years-with-a-fraction"),
        pytest.param("age", "116", 8, id="above-the-last-edge"),
    ],
)
def test_a_word_means_a_target(name, word, target):
    assert attribute(name).target_of(word) == target


def test_every_age_in_years_is_in_the_bin_that_says_so():
    for years in range(121):
        bins = [low <= years < high for low, high in itertools.pairwise(AGE.bin_edges)]
        want = bins.index(True) if True in bins else len(bins) - 1
        assert AGE.target_of(str(years)) == want


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        pytest.param("", "see `fattr models`", id="empty"),
        pytest.param("smilling", "did you mean 'smiling'?", id="typo"),
        pytest.param("zzzzzz", "see `fattr models`", id="nothing-like-it"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name, hint):
    with pytest.raises(UsageError) as caught:
        attribute(name)
    assert str(caught.value) == f"unknown attribute {name!r}: {hint}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param({"name": ""}, "must be snake_case", id="no-name"),
        pytest.param({"name": "Smiling"}, "must be snake_case", id="capital"),
        pytest.param({"name": "wearing hat"}, "must be snake_case", id="space"),
        pytest.param({"classes": ("a", "b")}, "classes are for", id="binary-with-classes"),
        pytest.param({"kind": Kind.CATEGORICAL}, "classes are for", id="no-classes"),
        pytest.param(
            {"kind": Kind.AGE, "classes": ("0", "1"), "bin_edges": (0, 1)},
            "3 bin edges needed",
            id="too-few-edges",
        ),
        pytest.param(
            {"kind": Kind.AGE, "classes": ("0", "1"), "bin_edges": (0, 5, 5)},
            "bin edges must rise",
            id="an-empty-bin",
        ),
        pytest.param(
            {"kind": Kind.CATEGORICAL, "classes": ("No", "no")}, "must differ", id="equal-classes"
        ),
        pytest.param(
            {"kind": Kind.CATEGORICAL, "classes": ("a", "b"), "bin_edges": (0, 1, 2)},
            "0 bin edges needed",
            id="edges-without-age",
        ),
    ],
)
def test_an_impossible_attribute_cannot_be_built(fields, message):
    with pytest.raises(ValueError, match=message):
        Attribute(**{"name": "a", "kind": Kind.BINARY, "description": ""} | fields)


def test_contradictions_are_of_different_binary_attributes():
    for one in CONTRADICTIONS:
        kinds = [attribute(name).kind for name in one.attributes]
        assert kinds == [Kind.BINARY] * len(set(one.attributes))
        assert len(kinds) >= 2
    assert len({frozenset(one.attributes) for one in CONTRADICTIONS}) == len(CONTRADICTIONS)
    assert CONTRADICTIONS[0].name == "bald_and_bangs"


def test_celebas_annotators_rarely_contradict_themselves():
    if not CELEBA_FILE.is_file():
        pytest.skip("CelebA's list_attr_celeba.txt is not here")
    rows = [line.split()[1:] for line in CELEBA_FILE.read_text().splitlines()[2:]]
    column = {a.name: i for i, a in enumerate(CELEBA40)}
    for one in CONTRADICTIONS:
        columns = [column[name] for name in one.attributes]
        together = sum(all(row[i] == "1" for i in columns) for row in rows)
        alone = [sum(row[i] == "1" for row in rows) / len(rows) for i in columns]
        assert together <= math.prod(alone) * len(rows) / 8
