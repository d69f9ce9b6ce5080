"""The yardstick: the least code that finds and labels faces, in this one file, without fattr.

    python benchmarks/annotate/bare.py DETECTOR.onnx CLASSIFIER.onnx IMAGE ...

Pillow's scaled decode, a letterbox of 640 pixels, RetinaFace-MobileNet-0.25, plain numpy for boxes
and suppression, a warp of 112 pixels from five landmarks, MobileNetV2. One image at a time, one
thread, float32. The canvas is padded to multiples of 32, not to a square, as fattr's is: a
yardstick must not be slow where that is easily avoided.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

LONG_SIDE, STRIDE, CROP_PX = 640, 32, 112
SCORE, IOU = 0.5, 0.4
MEAN_BGR = np.array([104, 117, 123], np.float32)
ANCHORS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))  # stride, sides
TEMPLATE = np.array(  # x + iy of eyes, nose and mouth corners in a crop of 112 pixels (ArcFace's)
    (
        38.2946 + 51.6963j,
        73.5318 + 51.5014j,
        56.0252 + 71.7366j,
        41.5493 + 92.3655j,
        70.7299 + 92.2041j,
    )
)

Floats = NDArray[np.float32]


def session(model: Path) -> onnxruntime.InferenceSession:
    """A network on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def decode(data: Path) -> tuple[Image.Image, float]:
    """RGB, a JPEG at the smallest of libjpeg's scales that is enough; full pixels a pixel."""
    with Image.open(data) as image:
        full_width = image.width
        share = LONG_SIDE / max(image.size)
        image.draft("RGB", (round(image.width * share), round(image.height * share)))
        rgb = image.convert("RGB")
    return rgb, full_width / rgb.width


def letterbox(image: Image.Image) -> tuple[Floats, float]:
    """(1, 3, H, W) as the detector takes it, and its pixels for one of the image."""
    share = LONG_SIDE / max(image.size)
    width, height = (max(1, round(side * share)) for side in image.size)
    planes = np.zeros((1, 3, -(-height // STRIDE) * STRIDE, -(-width // STRIDE) * STRIDE), "f4")
    resized = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    planes[0, :, :height, :width] = (resized[..., ::-1] - MEAN_BGR).transpose(2, 0, 1)
    return planes, share


@functools.cache
def anchors(height: int, width: int) -> Floats:
    """(A, 3): centre x, centre y, side."""
    levels = []
    for stride, sides in ANCHORS:
        y, x, side = np.meshgrid(
            (np.arange(-(-height // stride)) + 0.5) * stride,
            (np.arange(-(-width // stride)) + 0.5) * stride,
            sides,
            indexing="ij",
        )
        levels.append(np.stack([x, y, side], -1).reshape(-1, 3))
    return np.concatenate(levels).astype(np.float32)


def faces_of(loc: Floats, scores: Floats, marks: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Boxes (N, 4) xyxy and landmarks (N, 5, 2) in the canvas's pixels, best score first."""
    kept = np.flatnonzero(scores >= SCORE)
    kept = kept[np.argsort(-scores[kept], kind="stable")]
    centre, side = grid[kept, :2], grid[kept, 2:]
    middle = centre + loc[kept, :2] * 0.1 * side
    half = side * np.exp(loc[kept, 2:] * 0.2) / 2
    boxes = np.concatenate([middle - half, middle + half], 1)
    best = suppress(boxes)
    points = centre[:, None] + marks[kept].reshape(-1, 5, 2) * 0.1 * side[:, None]
    return boxes[best], points[best]


def suppress(boxes: Floats) -> list[int]:
    """Indices of the boxes to keep, of those sorted by score."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    order, best = np.arange(len(boxes)), []
    while order.size:
        first, rest = order[0], order[1:]
        best.append(int(first))
        low = np.maximum(boxes[first, :2], boxes[rest, :2])
        high = np.minimum(boxes[first, 2:], boxes[rest, 2:])
        shared = np.prod(np.maximum(high - low, 0), 1)
        order = rest[shared <= IOU * (areas[first] + areas[rest] - shared)]
    return best


def crop(image: Image.Image, landmarks: Floats) -> NDArray[np.uint8]:
    """(112, 112, 3): the similarity that best takes the landmarks (5, 2) to the template."""
    points = landmarks[:, 0] + 1j * landmarks[:, 1]
    centred = TEMPLATE - TEMPLATE.mean()
    a = (centred.conj() * (points - points.mean())).sum() / (abs(centred) ** 2).sum()
    b = points.mean() - a * TEMPLATE.mean()
    matrix = (a.real, -a.imag, b.real, a.imag, a.real, b.imag)
    size, way = (CROP_PX, CROP_PX), Image.Transform.AFFINE
    return np.asarray(image.transform(size, way, matrix, Image.Resampling.BILINEAR))


class BareLoop:
    """Both networks; ``seconds`` are those spent so far on each step."""

    def __init__(self, detector: Path, classifier: Path) -> None:
        self._detector, self._classifier = session(detector), session(classifier)
        self.seconds: dict[str, float] = defaultdict(float)

    def __call__(self, path: Path) -> tuple[Floats, Floats]:
        """Boxes (N, 4) in full pixels, and the probabilities (N, L) of their attributes."""
        with self._timed("decode"):
            image, scale = decode(path)
        with self._timed("detect"):
            boxes, landmarks = self._detect(image)
        with self._timed("crop"):
            crops = [crop(image, points) for points in landmarks]
        with self._timed("classify"):
            probs = self._classify(crops)
        return boxes * np.float32(scale), probs

    def _detect(self, image: Image.Image) -> tuple[Floats, Floats]:
        planes, share = letterbox(image)
        names = ["loc", "conf", "landmarks"]
        loc, conf, marks = (o[0] for o in self._detector.run(names, {"input": planes}))
        boxes, landmarks = faces_of(loc, conf[:, 1], marks, anchors(*planes.shape[2:]))
        return boxes / np.float32(share), landmarks / np.float32(share)

    def _classify(self, crops: list[NDArray[np.uint8]]) -> Floats:
        if not crops:
            return np.zeros((0, 0), np.float32)
        logits = self._classifier.run(["logits"], {"crops": np.stack(crops)})[0]
        probs: Floats = 1 / (1 + np.exp(-logits))
        return probs

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[step] += time.perf_counter() - started


def main(detector: str, classifier: str, *paths: str) -> None:
    """Print what is found in each image, and images a second."""
    loop = BareLoop(Path(detector), Path(classifier))
    started = time.perf_counter()
    for path in paths:
        print(path, *(np.round(box).astype(int).tolist() for box in loop(Path(path))[0]))
    print(f"{len(paths) / (time.perf_counter() - started):.1f} images/s")


if __name__ == "__main__":
    main(*sys.argv[1:])
