"""The vocabulary: what each attribute is called and means. Only this module spells names."""

from __future__ import annotations

import bisect
import difflib
import itertools
import math
from dataclasses import dataclass
from enum import StrEnum

from fattr.errors import UsageError


class Kind(StrEnum):
    """How an attribute is predicted: a logit, one of several classes, or bins of years."""

    BINARY = "binary"
    CATEGORICAL = "categorical"
    AGE = "age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """One thing a face shows.

    ``name`` is the column's name. A binary attribute's ``description`` says what true means.
    ``classes`` are the values of a categorical attribute or the bins of an age; ``bin_edges`` are
    years, one more than bins, the last bin's upper edge being a convention. ``mirrored`` holds for
    each class the one that the mirrored picture shows, where left and right matter.
    """

    name: str
    kind: Kind
    description: str
    sensitive: bool = False
    classes: tuple[str, ...] = ()
    bin_edges: tuple[float, ...] = ()
    mirrored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or self.name != self.name.lower():
            raise ValueError(f"attribute name must be snake_case, got {self.name!r}")
        if (self.kind is Kind.BINARY) != (not self.classes):
            raise ValueError(f"{self.name}: classes are for categorical and age, and needed there")
        wanted_edges = len(self.classes) + 1 if self.kind is Kind.AGE else 0
        if len(self.bin_edges) != wanted_edges:
            raise ValueError(f"{self.name}: {wanted_edges} bin edges needed: {self.bin_edges}")
        if any(low >= high for low, high in itertools.pairwise(self.bin_edges)):
            raise ValueError(f"{self.name}: bin edges must rise: {self.bin_edges}")
        if len({name.casefold() for name in self.classes}) != len(self.classes):
            raise ValueError(f"{self.name}: classes must differ, not only in case: {self.classes}")
        if self.mirrored and sorted(self.mirrored) != list(range(self.num_values)):
            raise ValueError(f"{self.name}: mirrored must hold each class once: {self.mirrored}")

    @property
    def num_logits(self) -> int:
        """How many outputs of the network this attribute takes."""
        return 1 if self.kind is Kind.BINARY else len(self.classes)

    @property
    def num_values(self) -> int:
        """How many values a target may take: 0 .. num_values - 1."""
        return len(self.value_names)

    @property
    def value_names(self) -> tuple[str, ...]:
        """What targets 0 .. num_values - 1 mean: the classes, of a binary one false and true."""
        return ("false", "true") if self.kind is Kind.BINARY else self.classes

    def target_of(self, word: str) -> int | None:
        """The target that a word means; None if it means none.

        A word is one of ``value_names`` in any case, 0 or 1 of a binary attribute, or an age in
        years, where the last bin holds all above its lower edge.
        """
        targets = {name.casefold(): i for i, name in enumerate(self.value_names)}
        if self.kind is Kind.BINARY:
            targets |= {"0": 0, "1": 1}
        key = word.strip().casefold()
        return targets[key] if key in targets else self._bin_of(key)

    def _bin_of(self, years: str) -> int | None:
        try:
            number = float(years)
        except ValueError:
            return None
        if not self.bin_edges or not self.bin_edges[0] <= number < math.inf:
            return None
        return bisect.bisect_right(self.bin_edges[:-1], number) - 1


def _binary(name: str, description: str, *, sensitive: bool = False) -> Attribute:
    return Attribute(name=name, kind=Kind.BINARY, description=description, sensitive=sensitive)


PERCEIVED_GENDER_PRESENTATION = Attribute(
    name="perceived_gender_presentation",
    kind=Kind.CATEGORICAL,
    description="an annotator's impression of presentation; not identity, not sex",
    sensitive=True,
    classes=("feminine", "masculine"),
)

AGE = Attribute(
    name="age",
    kind=Kind.AGE,
    description="apparent age as annotated, a distribution over FairFace's bins of years",
    sensitive=True,
    classes=("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "70+"),
    bin_edges=(0, 3, 10, 20, 30, 40, 50, 60, 70, 90),
)

EMOTION = Attribute(
    name="emotion",
    kind=Kind.CATEGORICAL,
    description="the expression shown, as annotated; not what a person feels",
    sensitive=True,
    classes=(
        "neutral",
        "happiness",
        "sadness",
        "surprise",
        "fear",
        "disgust",
        "anger",
        "contempt",
    ),
)

# CelebA's 40 in CelebA's order; its `Male` is perceived_gender_presentation.
CELEBA40 = (
    _binary("five_o_clock_shadow", "true: short stubble on the jaw"),
    _binary("arched_eyebrows", "true: eyebrows are arched"),
    _binary("attractive", "true: an annotator found the face attractive", sensitive=True),
    _binary("bags_under_eyes", "true: visible bags under the eyes"),
    _binary("bald", "true: no hair on the top of the head"),
    _binary("bangs", "true: hair falls over the forehead"),
    _binary("big_lips", "true: an annotator found the lips big", sensitive=True),
    _binary("big_nose", "true: an annotator found the nose big", sensitive=True),
    _binary("black_hair", "true: hair looks black"),
    _binary("blond_hair", "true: hair looks blond"),
    _binary("blurry", "true: the picture is blurry"),
    _binary("brown_hair", "true: hair looks brown"),
    _binary("bushy_eyebrows", "true: eyebrows are thick"),
    _binary("chubby", "true: an annotator found the face chubby", sensitive=True),
    _binary("double_chin", "true: a double chin is visible", sensitive=True),
    _binary("eyeglasses", "true: glasses of any kind, sunglasses included"),
    _binary("goatee", "true: beard on the chin only"),
    _binary("gray_hair", "true: hair looks gray or white"),
    _binary("heavy_makeup", "true: heavy makeup is visible"),
    _binary("high_cheekbones", "true: cheekbones look high (often: a smile)"),
    PERCEIVED_GENDER_PRESENTATION,
    _binary("mouth_slightly_open", "true: lips are parted"),
    _binary("mustache", "true: hair on the upper lip"),
    _binary("narrow_eyes", "true: eyes look narrow or half closed"),
    _binary("no_beard", "true: NO beard of any kind"),
    _binary("oval_face", "true: face looks oval"),
    _binary("pale_skin", "true: an annotator found the skin pale", sensitive=True),
    _binary("pointy_nose", "true: nose looks pointed"),
    _binary("receding_hairline", "true: hairline has receded"),
    _binary("rosy_cheeks", "true: cheeks look rosy"),
    _binary("sideburns", "true: hair in front of the ears"),
    _binary("smiling", "true: the mouth smiles; an expression, not an emotion"),
    _binary("straight_hair", "true: hair looks straight"),
    _binary("wavy_hair", "true: hair looks wavy"),
    _binary("wearing_earrings", "true: earrings are visible"),
    _binary("wearing_hat", "true: a hat or other head covering"),
    _binary("wearing_lipstick", "true: lipstick is visible"),
    _binary("wearing_necklace", "true: a necklace is visible"),
    _binary("wearing_necktie", "true: a necktie is visible"),
    _binary("young", "true: an annotator found the face young", sensitive=True),
)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Binary attributes that no face shows together."""

    attributes: tuple[str, ...]
    description: str

    @property
    def name(self) -> str:
        """The attributes' names, such as ``bald_and_bangs``."""
        return "_and_".join(self.attributes)


# Pairs of CelebA's that exclude each other by their meaning, and that its annotators gave together
# to at most an eighth of the faces that chance would: in 8,000 of them to 0 where 29 are expected,
# then 5 of 41, 0 of 62, 0 of 91, 49 of 537, 8 of 426, 9 of 257. Not here, though some would have
# them: stubble without a beard (268 of 733: to annotators it is none), sideburns without one (they
# are hair before the ears), a bald head with a hair colour (52 are gray: the sides keep theirs),
# two hair colours (hair may be dyed). That CelebA's mustache is a beard:
# https://arxiv.org/abs/2311.11208
CONTRADICTIONS = (
    Contradiction(("bald", "bangs"), "no hair on the top of the head, and hair over the forehead"),
    Contradiction(("bald", "straight_hair"), "no hair on the top of the head, and straight hair"),
    Contradiction(("bald", "wavy_hair"), "no hair on the top of the head, and wavy hair"),
    Contradiction(
        ("receding_hairline", "bangs"), "a hairline that has receded, and hair over the forehead"
    ),
    Contradiction(("straight_hair", "wavy_hair"), "hair both straight and wavy"),
    Contradiction(("no_beard", "goatee"), "no beard of any kind, and a beard on the chin"),
    Contradiction(("no_beard", "mustache"), "no beard of any kind, and hair on the upper lip"),
)

VOCABULARY = {attribute.name: attribute for attribute in (*CELEBA40, AGE, EMOTION)}


def attribute(name: str) -> Attribute:
    """The attribute called ``name``.

    Raises:
        UsageError: no attribute has that name; the message suggests the closest.
    """
    if name not in VOCABULARY:
        close = difflib.get_close_matches(name, VOCABULARY, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "see `fattr models`"
        raise UsageError(f"unknown attribute {name!r}: {hint}")
    return VOCABULARY[name]
