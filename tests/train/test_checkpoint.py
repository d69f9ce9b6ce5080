from pathlib import Path

import pytest
import torch

from fattr.train import checkpoint
from fattr.train.context import LocalContext


class WritesAFile:
    """Unpickled, it runs code: here, code that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_checkpoint_never_runs_code(tmp_path):
    trace = tmp_path / "was-run"
    torch.save({"model": WritesAFile(trace)}, tmp_path / checkpoint.FILE)
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.load(tmp_path)
    assert not trace.exists()


def test_a_local_run_that_reported_nothing_has_no_checkpoint(tmp_path):
    context = LocalContext(tmp_path / "latest")
    context.report({"epoch": 1}, None)
    assert context.latest_checkpoint() is None


def test_a_local_run_keeps_the_last_checkpoint_it_reported(tmp_path):
    context = LocalContext(tmp_path / "latest")
    for text in ("one", "two"):
        (tmp_path / text).mkdir()
        (tmp_path / text / checkpoint.FILE).write_text(text)
        context.report({}, tmp_path / text)
    assert (context.latest_checkpoint() / checkpoint.FILE).read_text() == "two"
