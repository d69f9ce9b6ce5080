"""The two ways to run RetinaFace: onnxruntime, which needs no torch, and torch, for any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnxruntime

from fattr import boxes
from fattr.detect import codec
from fattr.detect.anchors import anchors
from fattr.detect.detector import Normalisation
from fattr.records import Detections, FloatArray, UInt8Array

if TYPE_CHECKING:  # a CPU actor on onnxruntime never loads torch
    import torch

MAX_CANDIDATES = 5000  # per image, before suppression: bounds the worst case


def normalise(batch: UInt8Array, normalisation: Normalisation) -> FloatArray:
    """RGB (N, H, W, 3) uint8 -> (N, 3, H, W) float32 as the checkpoint wants it."""
    ordered = batch if normalisation.order == "rgb" else batch[..., ::-1]
    planes = np.ascontiguousarray(ordered.transpose(0, 3, 1, 2), dtype=np.float32)
    planes -= np.asarray(normalisation.mean, np.float32)[:, None, None]
    if normalisation.std != (1, 1, 1):
        planes /= np.asarray(normalisation.std, np.float32)[:, None, None]
    return planes


def _stack(columns: list[FloatArray], axis: int) -> FloatArray:
    return np.stack(columns, axis)


class OnnxBackend:
    """RetinaFace from ONNX bytes with outputs ``loc``, ``conf`` (softmaxed), ``landmarks``."""

    def __init__(
        self,
        model: bytes,
        normalisation: Normalisation,
        *,
        score_threshold: float,
        nms_iou_threshold: float,
        num_threads: int,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(model, options, providers=providers)
        self._score_threshold, self._nms_iou_threshold = score_threshold, nms_iou_threshold
        self.normalisation = normalisation

    def __call__(self, batch: UInt8Array) -> list[Detections]:
        """See ``detector.Backend``."""
        feed = {"input": normalise(batch, self.normalisation)}
        loc, conf, landms = self._session.run(["loc", "conf", "landmarks"], feed)
        grid = anchors((batch.shape[1], batch.shape[2]))
        return [self._faces(conf[i, :, 1], loc[i], landms[i], grid) for i in range(len(batch))]

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


class TorchBackend:
    """RetinaFace in torch; everything up to suppression stays on ``device``."""

    def __init__(
        self,
        network: torch.nn.Module,
        normalisation: Normalisation,
        *,
        score_threshold: float,
        nms_iou_threshold: float,
        device: str,
    ) -> None:
        self._network = network.eval().to(device)
        self._score_threshold, self._nms_iou_threshold = score_threshold, nms_iou_threshold
        self._device = device
        self.normalisation = normalisation

    def __call__(self, batch: UInt8Array) -> list[Detections]:
        """See ``detector.Backend``."""
        import torch

        with torch.inference_mode():
            images = torch.from_numpy(batch).to(self._device)
            loc, conf, landms = self._network(self._normalised(images))
            found = self._faces(conf.softmax(-1)[..., 1], loc, landms, batch.shape[1:3])
        return [Detections(*(part[found[0] == i] for part in found[1:])) for i in range(len(batch))]

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.float()
        ordered = pixels if self.normalisation.order == "rgb" else pixels.flip(-1)
        mean, std = (
            pixels.new_tensor(v) for v in (self.normalisation.mean, self.normalisation.std)
        )
        return ((ordered - mean) / std).permute(0, 3, 1, 2).contiguous()

    def _faces(
        self,
        scores: torch.Tensor,
        loc: torch.Tensor,
        landms: torch.Tensor,
        size_hw: tuple[int, ...],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        import torch
        from torchvision.ops import batched_nms

        top = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
        image, rank = torch.nonzero(top.values >= self._score_threshold, as_tuple=True)
        anchor = top.indices[image, rank]
        grid = torch.from_numpy(anchors((size_hw[0], size_hw[1])).copy()).to(self._device)[anchor]
        xyxy = codec.decode_boxes(loc[image, anchor], grid, exp=torch.exp, stack=torch.stack)
        values = scores[image, anchor]
        keep = batched_nms(xyxy, values, image, self._nms_iou_threshold)
        landmarks = codec.decode_landmarks(landms[image[keep], anchor[keep]], grid[keep])
        parts = (image[keep], xyxy[keep], values[keep], landmarks)
        index, box, score, points = (part.cpu().numpy() for part in parts)
        return index, box, score, points
