"""RetinaFace-MobileNet-0.25 by ncnn: what detects on a CPU. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import ncnn
import numpy as np

from fattr import boxes
from fattr.detect import codec
from fattr.detect.anchors import ANCHORS_PER_CELL, anchors
from fattr.detect.detector import MAX_CANDIDATES, Letterbox, Normalisation
from fattr.detect.from_onnx import convolutions
from fattr.detect.ncnn_model import INPUT, OUTPUTS, network_of
from fattr.records import Detections, FloatArray, UInt8Array


class NcnnBackend:
    """The carried detector in float32; images go through one by one, each as fast as in a batch."""

    def __init__(
        self,
        model: bytes,
        normalisation: Normalisation,
        *,
        score_threshold: float,
        nms_iou_threshold: float,
        num_threads: int,
    ) -> None:
        pool = ncnn.PoolAllocator()
        self._options = _options(num_threads, pool)
        self._net = _load(model, self._options)
        self._pool = pool  # must outlive the network, and what this object holds goes in order
        self._normalisation = normalisation
        self._score_threshold, self._nms_iou_threshold = score_threshold, nms_iou_threshold

    def __call__(
        self, images: Sequence[UInt8Array], boxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """See ``detector.Backend``."""
        return [self._look(image, box) for image, box in zip(images, boxes, strict=True)]

    def _look(self, image: UInt8Array, box: Letterbox) -> Detections:
        extractor = self._net.create_extractor()
        extractor.input(INPUT, canvas(image, box, self._normalisation, self._options))
        maps = [np.asarray(extractor.extract(name)[1]) for name in OUTPUTS]
        return self._faces(*_values(maps), anchors(box.canvas_hw))

    def _faces(
        self, scores: FloatArray, loc: FloatArray, landms: FloatArray, grid: FloatArray
    ) -> Detections:
        chosen = np.flatnonzero(scores >= self._score_threshold)
        if len(chosen) > MAX_CANDIDATES:
            chosen = chosen[np.argsort(-scores[chosen], kind="stable")[:MAX_CANDIDATES]]
        scores, grid = scores[chosen], grid[chosen]
        xyxy = codec.decode_boxes(loc[chosen], grid, exp=np.exp, stack=_stack)
        keep = boxes.nms(xyxy, scores, iou_threshold=self._nms_iou_threshold)
        landmarks = codec.decode_landmarks(landms[chosen[keep]], grid[keep])
        return Detections(xyxy[keep], scores[keep], landmarks)


def _options(num_threads: int, pool: ncnn.PoolAllocator) -> ncnn.Option:
    """Without it, whatever of ncnn is called has threads on all cores, for each that calls.

    Feature maps come from the ``pool``: taken from the system, and given back, for each image, they
    cost a tenth of the time.
    """
    options = ncnn.Option()
    options.blob_allocator = options.workspace_allocator = pool
    options.num_threads = num_threads
    options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
    options.use_bf16_storage = False
    return options


def _load(model: bytes, options: ncnn.Option) -> ncnn.Net:
    text, weights = network_of(convolutions(model))
    net = ncnn.Net()
    net.opt = options
    with tempfile.TemporaryDirectory() as folder:  # ncnn's Python reads weights from files alone
        path = Path(folder) / "weights.bin"
        path.write_bytes(weights)
        is_refused = net.load_param_mem(text) or net.load_model(str(path))
    assert not is_refused, "ncnn refuses the network that was written for it"
    return net


def canvas(
    image: UInt8Array, box: Letterbox, normalisation: Normalisation, options: ncnn.Option
) -> ncnn.Mat:
    """The image (H, W, 3) as ``box`` and ``normalisation`` say, (3, H', W') float32."""
    kind = ncnn.Mat.PixelType.PIXEL_RGB
    if normalisation.order == "bgr":
        kind = ncnn.Mat.PixelType.PIXEL_RGB2BGR
    (height, width), (inner_h, inner_w) = image.shape[:2], box.inner_hw
    if width == 1:  # of a row, ncnn also reads the pixel before its last, with a weight of 0
        image, width = np.repeat(image, 2, axis=1), 2
    pixels = np.ascontiguousarray(image)
    planes = ncnn.Mat.from_pixels_resize(
        pixels, kind, width, height, inner_w, inner_h, options.blob_allocator
    )
    scales = [1 / std for std in normalisation.std]
    planes.substract_mean_normalize(list(normalisation.mean), scales)
    below, beside = (side - inner for side, inner in zip(box.canvas_hw, box.inner_hw, strict=True))
    constant = ncnn.BorderType.BORDER_CONSTANT
    return ncnn.copy_make_border(planes, 0, below, 0, beside, constant, 0.0, options)


def _values(maps: Sequence[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Scores (A,), box offsets (A, 4) and landmark offsets (A, 10) of the network's three maps."""
    levels = [m.reshape(len(m), -1).T for m in maps]  # (cells, 32)
    cells = np.concatenate(levels)
    ends = np.cumsum([2 * ANCHORS_PER_CELL, 4 * ANCHORS_PER_CELL])
    logits, loc, landms = (
        part.reshape(len(cells) * ANCHORS_PER_CELL, -1) for part in np.split(cells, ends, axis=1)
    )
    half = np.float32(0.5)
    scores: FloatArray = half + half * np.tanh((logits[:, 1] - logits[:, 0]) * half)  # softmax
    return scores, loc, landms


def _stack(columns: list[FloatArray], axis: int) -> FloatArray:
    return np.stack(columns, axis)
