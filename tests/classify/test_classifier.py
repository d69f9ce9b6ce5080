import numpy as np
import onnx
import pytest
import torch

from fattr.classify.calibration import Calibration, probabilities
from fattr.classify.classifier import (
    AttributeClassifier,
    load_network,
    onnx_forward,
    torch_forward,
)


def random_crops(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 24, 3)).astype(np.uint8)


@pytest.fixture(scope="module", params=["onnx", "torch"])
def forward(request, network, onnx_model):
    if request.param == "onnx":
        return onnx_forward(onnx_model, num_threads=1)
    return torch_forward(network, device="cpu")


@pytest.mark.parametrize("n", [1, 3, 7])
def test_onnx_equals_torch(n, network, onnx_model, safetensors_model, attributes):
    """Also after a trip through safetensors."""
    crops = random_crops(n)
    by_onnx = onnx_forward(onnx_model, num_threads=1)(crops)
    loaded = load_network("tiny", attributes, safetensors_model)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(crops)).numpy()
    assert by_onnx.shape == (n, 13)
    assert abs(wanted).max() > 0.1
    np.testing.assert_allclose(by_onnx, wanted, atol=1e-4)
    np.testing.assert_array_equal(torch_forward(loaded, device="cpu")(crops), wanted)


def test_the_onnx_file_tells_nothing_about_the_machine_that_made_it(onnx_model):
    model = onnx.load_from_string(onnx_model)
    assert [i.name for i in model.graph.input] == ["crops"]
    assert [o.name for o in model.graph.output] == ["logits"]
    assert b".py" not in onnx_model


@pytest.mark.parametrize("n", [0, 1, 5, 8, 9])
def test_batches_change_nothing(n, forward, attributes):
    crops = random_crops(n)
    one = AttributeClassifier(forward, attributes, Calibration(), batch_size=1)
    four = AttributeClassifier(forward, attributes, Calibration(), batch_size=4)
    assert one.logits(crops).shape == (n, 13)
    np.testing.assert_allclose(one.logits(crops), four.logits(crops), atol=1e-5)


def test_no_batch_is_larger_than_asked_for(attributes):
    seen = []

    def forward(crops):
        seen.append(len(crops))
        return np.zeros((len(crops), 13), np.float32)

    AttributeClassifier(forward, attributes, Calibration(), batch_size=4).logits(random_crops(9))
    assert seen == [4, 4, 1]


@pytest.mark.parametrize("n", [0, 3])
def test_probabilities_are_the_calibrated_logits(n, forward, attributes):
    calibration = Calibration({"age": 2.0})
    classifier = AttributeClassifier(forward, attributes, calibration)
    probs = classifier.predict_proba(random_crops(n))
    wanted = probabilities(classifier.logits(random_crops(n)), attributes, calibration)
    assert list(probs) == [a.name for a in attributes]
    for name, values in wanted.items():
        np.testing.assert_array_equal(probs[name], values)


def test_crops_may_be_read_only(forward):
    crops = random_crops(2)
    crops.setflags(write=False)
    assert forward(crops).shape == (2, 13)


@pytest.mark.parametrize("n", [1, 3, 8])
def test_few_crops_are_filled_up_to_one_shape(n, network, attributes):
    shapes = []
    handle = network.register_forward_hook(lambda *args: shapes.append(tuple(args[1][0].shape)))
    filled = torch_forward(network, device="cpu", fill_to=8)(random_crops(n))
    handle.remove()
    assert shapes == [(8, 32, 24, 3)]
    plain = torch_forward(network, device="cpu")(random_crops(n))
    np.testing.assert_allclose(filled, plain, atol=1e-5)
