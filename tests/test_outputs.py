"""Where a training run writes."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from fattr import storage
from fattr.errors import UsageError
from fattr.outputs import names_in, put, refuse_held, refuse_used_output, workplace


@pytest.fixture(params=["disk", "bucket"])
def output(request, tmp_path) -> str:
    if request.param == "disk":
        return (tmp_path / "out put").as_uri()
    return request.getfixturevalue("s3_bucket") + "/out"


def test_what_is_made_in_a_workplace_gets_to_the_output(output):
    assert names_in(output) == []
    with workplace(output) as folder:
        (folder / "bundle").mkdir()
        (folder / "bundle" / "model.onnx").write_bytes(b"model")
        (folder / "run.html").write_text("page")
        put(folder, output)
    assert names_in(output) == ["bundle", "run.html"]
    assert storage.read_bytes(storage.join(output, "bundle", "model.onnx")) == b"model"
    is_elsewhere = storage.local_path(output) is None
    assert folder.exists() != is_elsewhere  # a folder for the meantime is gone


KILLED_WRITING = """
import os, signal, sys
from fattr import storage
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
storage.write_bytes(sys.argv[1], b"{}")
"""


def test_an_output_whose_first_write_was_killed_is_free(tmp_path):
    output = (tmp_path / "out").as_uri()
    uri = storage.join(output, "run.json")
    ended = subprocess.run([sys.executable, "-c", KILLED_WRITING, uri], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert len(names_in(output)) == 1  # the draft
    refuse_held(output, names_in(output))
    refuse_used_output(tmp_path / "out")
    storage.write_bytes(uri, b"{}")
    with pytest.raises(UsageError, match=r"holds a run already \(run\.json\): choose another"):
        refuse_held(output, names_in(output))
