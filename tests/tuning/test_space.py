"""What a search tries: what a file may say, and what each trial gets."""

import dataclasses
import itertools
import math
import random

import pytest

from fattr.config import TrainConfig
from fattr.errors import UsageError
from fattr.tuning.space import Choice, IntRange, LogUniform, Uniform, draw, to_json
from fattr.tuning.space_file import SPACES, as_toml, find_space, parse_space, searchable

SPACE = {
    "learning_rate": LogUniform(1e-5, 1e-1),
    "dropout": Uniform(0.0, 0.5),
    "epochs": IntRange(2, 5),
    "backbone": Choice(("tiny", "resnet18")),
}
FILE = b"""
learning_rate = { loguniform = [1e-5, 0.1] }
dropout = { uniform = [0, 0.5] }
epochs = { int = [2, 5] }
backbone = { choice = ["tiny", "resnet18"] }
"""


def test_a_file_is_a_space(tmp_path):
    path = tmp_path / "space.toml"
    path.write_bytes(FILE)
    assert find_space(str(path)) == SPACE
    assert isinstance(find_space(str(path))["dropout"].low, float)


def test_a_written_space_reads_back():
    lines = []
    for name, form in to_json(SPACE).items():
        ((kind, values),) = form.items()
        lines.append(f"{name} = {{ {kind} = {values!r} }}")
    assert parse_space("\n".join(lines).encode(), where="again") == SPACE


@pytest.mark.parametrize("name", SPACES)
def test_a_shipped_space_is_one_that_a_file_could_say(name):
    text = "\n".join(
        f"{field} = {{ {kind} = {values!r} }}"
        for field, form in to_json(find_space(name)).items()
        for kind, values in form.items()
    )
    assert parse_space(text.encode(), where=name) == SPACES[name]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate = ", "s: TOML expected"),
        ("", "s: no setting to search"),
        ("lerning_rate = { uniform = [0, 1] }", "cannot be searched: did you mean learning_rate?"),
        ("output = { choice = ['a', 'b'] }", "s: output cannot be searched"),
        ("best_metric = { choice = ['f1', 'loss'] }", "s: best_metric cannot be searched"),
        ("learning_rate = 0.1", "s: learning_rate: { loguniform = [low, high] }, "),
        ("learning_rate = { uniform = [0, 1], int = [1, 2] }", "s: learning_rate: { loguniform"),
        ("learning_rate = { uniform = 1 }", "s: learning_rate: a list expected: uniform = 1"),
        ("learning_rate = { loguniform = [0, 1] }", "numbers above 0, expected: [0, 1]"),
        ("learning_rate = { uniform = [1, 0] }", "[low, high], numbers, expected: [1, 0]"),
        ("learning_rate = { uniform = [0, 1, 2] }", "uniform = [low, high], numbers, expected"),
        ("learning_rate = { uniform = [0, inf] }", "uniform = [low, high], numbers, expected"),
        ("learning_rate = { uniform = ['a', 'b'] }", "uniform = [low, high], numbers, expected"),
        ("learning_rate = { int = [1, 2] }", "loguniform or uniform or choice expected: int"),
        ("epochs = { uniform = [1, 2] }", "s: epochs: int or choice expected: uniform"),
        ("epochs = { int = [1.5, 2] }", "int = [low, high], whole numbers, expected: [1.5, 2]"),
        ("epochs = { int = [true, 2] }", "int = [low, high], whole numbers, expected"),
        ("epochs = { choice = [1, 2.5] }", "s: epochs: whole numbers expected: 2.5"),
        ("binary = { choice = ['bce', 'hinge'] }", "bce, focal, asymmetric expected: 'hinge'"),
        ("binary = { uniform = [0, 1] }", "s: binary: choice expected: uniform"),
        ("backbone = { choice = ['tiny', 5] }", "s: backbone: values of type str expected: 5"),
        ("dropout = { choice = [0.1] }", "two or more different values expected: [0.1]"),
        ("dropout = { choice = [0, 0.0] }", "s: dropout: two or more different values expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_in_one_line(text, said):
    with pytest.raises(UsageError) as caught:
        parse_space(text.encode(), where="s")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_told():
    with pytest.raises(UsageError, match=r"--space nowhere.toml: a TOML file or one of rate, reci"):
        find_space("nowhere.toml")


def test_every_searchable_setting_is_a_flag_that_changes_learning():
    flags = {field.name for field in dataclasses.fields(TrainConfig)}
    assert set(searchable()) <= flags
    assert {"learning_rate", "batch_size", "epochs", "backbone", "binary"} <= set(searchable())
    assert not {"output", "data", "workers", "seed", "limit", "num_checkpoints"} & set(searchable())


def test_a_trials_settings_depend_on_seed_and_number_alone():
    first = [draw(SPACE, 3, number) for number in range(20)]
    reordered = dict(reversed(SPACE.items()))
    random.seed(99)
    assert [draw(reordered, 3, number) for number in reversed(range(20))] == first[::-1]
    assert [draw(SPACE, 4, number) for number in range(20)] != first
    # As an earlier version drew it: an output that was begun then can be continued.
    assert first[7] == {
        "backbone": "resnet18",
        "dropout": 0.424,
        "epochs": 5,
        "learning_rate": 0.000162,
    }


def test_draws_stay_within_their_range():
    drawn = [draw(SPACE, 0, number) for number in range(500)]
    assert {one["epochs"] for one in drawn} == {2, 3, 4, 5}
    assert {one["backbone"] for one in drawn} == {"tiny", "resnet18"}
    assert all(1e-5 <= one["learning_rate"] <= 1e-1 for one in drawn)
    assert all(0.0 <= one["dropout"] <= 0.5 for one in drawn)
    assert all(one["learning_rate"] == float(f"{one['learning_rate']:.3g}") for one in drawn)


def test_a_rounded_draw_does_not_leave_its_range():
    narrow = LogUniform(0.012345, 0.012346)
    assert narrow.at(0.5) in (narrow.low, narrow.high)


@pytest.mark.parametrize("seed", range(20))
def test_eight_trials_leave_no_decade_untried(seed):
    rates = [
        draw({"learning_rate": LogUniform(1e-6, 1)}, seed, n)["learning_rate"] for n in range(8)
    ]
    ends = [-6.0, *sorted(math.log10(rate) for rate in rates), 0.0]
    gaps = [high - low for low, high in itertools.pairwise(ends)]
    assert max(gaps) < 1.5
    assert max(gaps[1:-1]) < 1.2


@pytest.mark.parametrize("seed", range(5))
def test_two_settings_do_not_go_together(seed):
    drawn = [draw(SPACE, seed, number) for number in range(200)]
    rates = [math.log(one["learning_rate"]) for one in drawn]
    dropouts = [one["dropout"] for one in drawn]
    assert abs(correlation(rates, dropouts)) < 0.15


def correlation(xs, ys):
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    pairs = [(x - mean_x, y - mean_y) for x, y in zip(xs, ys, strict=True)]
    spread = math.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs))
    return sum(x * y for x, y in pairs) / spread


def test_settings_as_toml_read_back():
    import tomllib

    settings = {"learning_rate": 1e-05, "epochs": 4, "compile": True, "init": 'a "b\\c'}
    assert tomllib.loads(as_toml(settings)) == settings
