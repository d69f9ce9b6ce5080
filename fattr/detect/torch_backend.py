"""RetinaFace by torch, for any device and any checkpoint of the family.

On a GPU the host waits for few things of a batch: how many candidates and faces there are, and the
faces themselves, which come back in one copy. Pixels cross the bus as bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from fattr.detect import codec
from fattr.detect.anchors import anchors
from fattr.detect.detector import MAX_CANDIDATES, Letterbox, Normalisation
from fattr.device import to_device
from fattr.records import Detections, FloatArray, UInt8Array

if TYPE_CHECKING:
    import torch


@lru_cache(maxsize=64)
def _anchors_on(size_hw: tuple[int, int], device: str) -> torch.Tensor:
    import torch

    return torch.tensor(anchors(size_hw), device=device)


class TorchBackend:
    """RetinaFace in torch; everything up to suppression stays on ``device``.

    Convolutions are computed in ``precision``, all else in 32 bits.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        normalisation: Normalisation,
        *,
        score_threshold: float,
        nms_iou_threshold: float,
        device: str,
        precision: Literal["fp32", "bf16", "fp16"] = "fp32",
    ) -> None:
        import torch

        self._network = network.eval().to(device)
        if device.startswith("cuda"):  # what tensor cores compute in
            self._network.to(memory_format=torch.channels_last)
        self._score_threshold, self._nms_iou_threshold = score_threshold, nms_iou_threshold
        self._device = device
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[
            precision
        ]
        self._order = normalisation.order
        self._mean, self._std = (
            torch.tensor(values, dtype=torch.float32, device=device)[:, None, None]
            for values in (normalisation.mean, normalisation.std)
        )

    def __call__(
        self, images: Sequence[UInt8Array], boxes: Sequence[Letterbox]
    ) -> list[Detections]:
        """See ``detector.Backend``."""
        import torch

        with torch.inference_mode():
            canvases = [self._canvas(i, box) for i, box in zip(images, boxes, strict=True)]
            loc, conf, landms = self._forward(torch.cat(canvases))
            found = self._faces(conf.softmax(-1)[..., 1], loc, landms, boxes[0].canvas_hw)
        of_image = [found[found[:, 0] == i] for i in range(len(images))]
        return [Detections(f[:, 2:6], f[:, 1], f[:, 6:].reshape(-1, 5, 2)) for f in of_image]

    def _canvas(self, image: UInt8Array, box: Letterbox) -> torch.Tensor:
        """(1, 3, H, W), resized and normalised on the device."""
        import torch.nn.functional as F

        rgb = to_device(image, self._device).permute(2, 0, 1)[None].float()
        planes = rgb if self._order == "rgb" else rgb.flip(1)
        resized = F.interpolate(planes, box.inner_hw, mode="bilinear", align_corners=False)
        (height, width), (inner_h, inner_w) = box.canvas_hw, box.inner_hw
        normalised = (resized - self._mean) / self._std
        return F.pad(normalised, (0, width - inner_w, 0, height - inner_h))

    def _forward(self, canvases: torch.Tensor) -> list[torch.Tensor]:
        """The network's outputs in 32 bits."""
        import torch

        is_half = self._dtype is not torch.float32
        with torch.autocast(canvases.device.type, self._dtype, enabled=is_half):
            outputs = self._network(canvases)
        return [values.float() for values in outputs]

    def _faces(
        self,
        scores: torch.Tensor,
        loc: torch.Tensor,
        landms: torch.Tensor,
        size_hw: tuple[int, int],
    ) -> FloatArray:
        """A row a face: index of its image, score, box (4), landmarks (10); best score first."""
        import torch
        from torchvision.ops import batched_nms

        top = scores.topk(min(MAX_CANDIDATES, scores.shape[1]), dim=1)
        image, rank = torch.nonzero(top.values >= self._score_threshold, as_tuple=True)
        anchor = top.indices[image, rank]
        grid = _anchors_on(size_hw, self._device)[anchor]
        xyxy = codec.decode_boxes(loc[image, anchor], grid, exp=torch.exp, stack=torch.stack)
        values = scores[image, anchor]
        keep = batched_nms(xyxy, values, image, self._nms_iou_threshold)
        points = codec.decode_landmarks(landms[image[keep], anchor[keep]], grid[keep]).flatten(1)
        index_and_score = torch.stack([image[keep].float(), values[keep]], 1)
        rows: FloatArray = torch.cat([index_and_score, xyxy[keep], points], 1).cpu().numpy()
        return rows
