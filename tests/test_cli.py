"""Commands that print, run in this process."""

import pytest

from fattr.classify import cost as costs
from fattr.cli import run_job


def test_architectures_lists_the_backbones_that_take_the_crops(capsys, monkeypatch):
    backbones = {name: costs.BACKBONES[name] for name in ("tiny", "vgg16_bn")}
    monkeypatch.setattr(costs, "BACKBONES", backbones)
    argv = ["--crop-size", "24", "40", "--batch-size", "2", "--device", "cpu"]
    assert run_job("architectures", argv) == 0
    head, columns, tiny, vgg = capsys.readouterr().out.splitlines()
    assert head.startswith("crops of 24x40 (height x width), 40 attributes, cpu")
    assert columns.endswith("2 at once")
    assert tiny.startswith("tiny ")
    assert vgg == "vgg16_bn needs crops of 32 px or more a side"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--crop-size", "0", "40"], "--crop-size must be 1 or more: 0"),
        (["--batch-size", "0"], "--batch-size must be 1 or more: 0"),
    ],
)
def test_a_wrong_flag_of_architectures_is_one_line(argv, message, capsys):
    assert run_job("architectures", argv) == 2
    assert capsys.readouterr().err == f"fattr architectures: {message}\n"
