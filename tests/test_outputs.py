"""Where a training run writes."""

from __future__ import annotations

import pytest

from fattr import storage
from fattr.outputs import names_in, put, workplace


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
