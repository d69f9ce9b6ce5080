"""A preset as a file, with the flags that spell the same as the oracle."""

import dataclasses

import pytest

from fattr import storage
from fattr.config import TrainConfig, TuneConfig
from fattr.errors import UsageError
from fattr.tuning.preset_file import resolved, settable
from fattr.tuning.space_file import as_toml

FILE = b"""
preset = "celeba40"
learning_rate = 1
binary = "focal"
compile = true
backbone = "resnet18"
"""
SAID = {"learning_rate": 1.0, "binary": "focal", "compile": True, "backbone": "resnet18"}


def config(preset, **flags):
    return TrainConfig(preset=str(preset), data=("synthetic:d",), output="o", **flags)


@pytest.fixture(params=["disk", "s3"])
def folder(request, tmp_path):
    return str(tmp_path) if request.param == "disk" else request.getfixturevalue("s3_bucket")


def test_a_file_stands_for_flags_and_flags_win(folder):
    file = storage.join(storage.canonical_uri(folder), "mine.toml")
    storage.write_bytes(file, FILE)
    path = f"{folder}/mine.toml"
    assert resolved(config(path)) == config("celeba40", **SAID)
    assert isinstance(resolved(config(path)).learning_rate, float)
    flags = {"learning_rate": 0.5, "seed": 3, "limit": 4}
    assert resolved(config(path, **flags)) == config("celeba40", **SAID | flags)


def test_a_name_is_left_as_it_is():
    assert resolved(config("celeba40")) == config("celeba40")


def test_a_search_takes_it_too(tmp_path):
    (tmp_path / "mine.toml").write_bytes(FILE)
    common = {"data": ("synthetic:d",), "output": "o", "space": "rate", "trials": 2}
    found = resolved(TuneConfig(preset=str(tmp_path / "mine.toml"), **common))
    assert found == TuneConfig(preset="celeba40", **common, **SAID)


def test_what_no_flag_is_called_no_preset_says():
    assert set(settable()) <= {field.name for field in dataclasses.fields(TrainConfig)}
    assert not {"data", "output", "workers", "gpus", "seed", "limit"} & set(settable())


def test_all_that_a_preset_can_say_can_be_written_and_read(tmp_path):
    said = {"learning_rate": 3e-05, "dropout": 0.0, "patience": 2, "init": 'a \\ "b".pth'}
    (tmp_path / "a.toml").write_text(as_toml({"preset": "tiny", **said}))
    assert resolved(config(tmp_path / "a.toml")) == config("tiny", **said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preset = ", "TOML expected"),
        ("", 'preset = "NAME" of a shipped one expected'),
        ("lerning_rate = 1.0", "lerning_rate is no part of a preset: did you mean learning_rate?"),
        ("output = 'o'", "output is no part of a preset: "),
        ("learning_rate = 'fast'", "learning_rate: a number expected: 'fast'"),
        ("epochs = 1.5", "epochs: a whole number expected: 1.5"),
        ("epochs = true", "epochs: a whole number expected: True"),
        ("compile = 1", "compile: true or false expected: 1"),
        ("binary = 'hinge'", "binary: bce, focal, asymmetric expected: 'hinge'"),
        ("backbone = ['tiny']", "backbone: a text in quotes expected: ['tiny']"),
        ("epochs = 0", "--epochs must be 1 or more: 0"),
        ("init = 'none'\ninit_from = 'm'", "--init and --init-from exclude each other"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, said):
    file = tmp_path / "p.toml"
    is_whole = text in ("", "preset = ")
    file.write_text(text if is_whole else f"preset = 'tiny'\n{text}")
    with pytest.raises(UsageError) as caught:
        resolved(config(file))
    assert str(caught.value).startswith(f"--preset {file}: {said}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_in_one_line(folder):
    with pytest.raises(UsageError, match=r"^--preset .*none\.toml: a TOML file expected: .+$"):
        resolved(config(f"{folder}/none.toml"))
