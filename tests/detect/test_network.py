import numpy as np
import onnxruntime
import pytest
import torch

from fattr.detect.anchors import anchors
from fattr.detect.from_onnx import convolution_key, state_dict_of
from fattr.detect.network import RetinaFace, load_checkpoint
from fattr.errors import UsageError


@pytest.fixture(scope="module")
def session(shipped):
    return onnxruntime.InferenceSession(shipped.data, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("size_hw", [(32, 32), (160, 225), (97, 64), (128, 320)])
def test_torch_equals_the_onnx_file_it_was_read_from(size_hw, session, network):
    rng = np.random.default_rng(size_hw[1])
    pixels = rng.normal(0, 60, (1, 3, *size_hw)).astype(np.float32)
    wanted = session.run(["loc", "conf", "landmarks"], {"input": pixels})
    with torch.inference_mode():
        loc, conf, landms = network(torch.from_numpy(pixels))
    for got, reference in zip((loc, conf.softmax(-1), landms), wanted, strict=True):
        assert got.shape == reference.shape
        np.testing.assert_allclose(got, reference, atol=1e-3)
    assert loc.shape[1] == len(anchors(size_hw))


def test_every_tensor_of_the_network_comes_from_the_file(shipped):
    wanted = RetinaFace("mobilenet025").state_dict()
    state = state_dict_of(shipped.data)
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in wanted.items()}


@pytest.mark.parametrize(
    ("node_name", "key"),
    [
        pytest.param("", None, id="no-name"),
        pytest.param("/class_head/class_head.0/Conv", "ClassHead.0.conv1x1", id="head"),
        pytest.param("/fx/stage1/stage1.0/stage1.0.0/Conv", "body.stage1.0.0", id="plain"),
        pytest.param(
            "/fx/stage1/stage1.1/stage1.1.0/stage1.1.0.0/Conv", "body.stage1.1.0", id="depthwise"
        ),
        pytest.param(
            "/fx/stage2/stage2.3/stage2.3.1/stage2.3.1.0/Conv", "body.stage2.3.3", id="pointwise"
        ),
        pytest.param("/fpn/merge1/merge1.0/Conv", "fpn.merge1.0", id="pyramid"),
        pytest.param("/ssh2/conv7x7_3/conv7x7_3.0/Conv", "ssh2.conv7x7_3.0", id="context"),
    ],
)
def test_names_of_convolutions(node_name, key):
    assert convolution_key(node_name) == key


def test_both_backbones_are_told_apart(network):
    for backbone in ("mobilenet025", "resnet50"):
        state = RetinaFace(backbone).state_dict()
        assert load_checkpoint(state)[1] == backbone


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda state: {}, "not a RetinaFace checkpoint (resnet50", id="empty"),
        pytest.param(
            lambda state: {k: v for k, v in state.items() if "ssh2" not in k},
            "not a RetinaFace checkpoint (mobilenet025 expected): Missing key(s)",
            id="a-part-missing",
        ),
        pytest.param(
            lambda state: state | {"fc.weight": torch.zeros(1)},
            "not a RetinaFace checkpoint (mobilenet025 expected): Unexpected key(s)",
            id="a-part-too-much",
        ),
        pytest.param(
            lambda state: state | {"body.stage1.0.0.weight": torch.zeros(8, 3, 5, 5)},
            "size mismatch for body.stage1.0.0.weight",
            id="another-shape",
        ),
    ],
)
def test_other_tensors_are_refused_in_one_line(change, message, network):
    with pytest.raises(UsageError) as caught:
        load_checkpoint(change(dict(network.state_dict())))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
