"""What training does to a crop and serving never does: augmentation, seeded per sample."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from fattr.errors import UsageError


class RandomDownscale(nn.Module):
    """With probability ``p``, shrink to ``smallest`` to 1 times the size and enlarge again.

    What a small or distant face looks like after its crop.
    """

    def __init__(self, *, p: float, smallest: float) -> None:
        super().__init__()
        self.p, self.smallest = p, smallest

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> the same shape."""
        if torch.rand(()) >= self.p:
            return image
        factor = self.smallest + (1 - self.smallest) * float(torch.rand(()))
        height, width = image.shape[1:]
        small = [max(1, round(height * factor)), max(1, round(width * factor))]
        shrunk = VF.resize(image, small, antialias=True)
        out: Tensor = VF.resize(shrunk, [height, width], antialias=True)
        return out


class RandomSurroundings(nn.Module):
    """Paint each side with probability ``p``, up to ``deepest`` of the crop, with smooth colours.

    A crop reaches beyond the picture that a data set publishes of a face, where serving sees
    whatever stands behind the person and training only the picture's repeated border.
    """

    def __init__(self, *, p: float, deepest: float) -> None:
        super().__init__()
        self.p, self.deepest = p, deepest

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> the same shape."""
        height, width = image.shape[1:]
        depths = self.deepest * torch.rand(4) * (torch.rand(4) < self.p)
        sides = depths * torch.tensor([height, height, width, width])
        top, bottom, left, right = (int(side) for side in sides)
        blobs = torch.randint(0, 256, (3, 3, 3), dtype=torch.uint8)
        out: Tensor = VF.resize(blobs, [height, width], antialias=False)
        inside = (slice(None), slice(top, height - bottom), slice(left, width - right))
        out[inside] = image[inside]
        return out


def _affine(size_hw: tuple[int, int], *, degrees: float, shift: float, zoom: float) -> nn.Module:
    """Small rotation, shift and scale with the border repeated."""
    pipeline: nn.Module = v2.Compose(
        [
            v2.Pad(max(size_hw) // 6, padding_mode="edge"),
            v2.RandomAffine(
                degrees=degrees,
                translate=(shift, shift),
                scale=(1 - zoom, 1 + zoom),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.CenterCrop(list(size_hw)),
        ]
    )
    return pipeline


class RandomJPEG(nn.Module):
    """With probability ``p``, save as JPEG of a quality from ``lowest`` to 95 and open again."""

    def __init__(self, *, p: float, lowest: int) -> None:
        super().__init__()
        self.p, self.lowest = p, lowest

    def forward(self, image: Tensor) -> Tensor:
        """(3, H, W) uint8 -> the same shape."""
        if torch.rand(()) >= self.p:
            return image
        buffer, quality = io.BytesIO(), int(torch.randint(self.lowest, 96, ()))
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def _blur() -> nn.Module:
    blur: nn.Module = v2.RandomApply([v2.GaussianBlur(5, sigma=(0.3, 1.5))], p=0.1)
    return blur


# Each takes the size (h, w) of the crops and gives the steps; mirroring is not among them, since
# labels may change with it: see train.batches.
def _photo(size_hw: tuple[int, int]) -> list[nn.Module]:
    """Small affine, light, loss of detail."""
    return [
        _affine(size_hw, degrees=8, shift=0.04, zoom=0.1),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
        RandomDownscale(p=0.3, smallest=0.3),
    ]


def _tight_photo(size_hw: tuple[int, int]) -> list[nn.Module]:
    """For crops about as tight as the published pictures they come from."""
    return [
        RandomSurroundings(p=0.4, deepest=0.15),
        _affine(size_hw, degrees=10, shift=0.05, zoom=0.12),
        v2.ColorJitter(brightness=0.2, contrast=0.2),
        RandomDownscale(p=0.3, smallest=0.3),
    ]


def _bucket(size_hw: tuple[int, int]) -> list[nn.Module]:
    """As "photo", and what buckets really hold: blurred and much compressed pictures."""
    return [*_photo(size_hw), _blur(), RandomJPEG(p=0.2, lowest=30)]


def _tight_bucket(size_hw: tuple[int, int]) -> list[nn.Module]:
    """As "tight_photo", with blur, JPEG and a part of the face hidden."""
    hidden = v2.RandomErasing(p=0.2, scale=(0.02, 0.15), value=127)
    return [*_tight_photo(size_hw), _blur(), RandomJPEG(p=0.2, lowest=30), hidden]


def _none(size_hw: tuple[int, int]) -> list[nn.Module]:
    return []


AUGMENTATIONS: dict[str, Callable[[tuple[int, int]], list[nn.Module]]] = {
    "none": _none,
    "photo": _photo,
    "tight_photo": _tight_photo,
    "bucket": _bucket,
    "tight_bucket": _tight_bucket,
}


def build_augmentation(name: str, size_hw: tuple[int, int]) -> nn.Module:
    """A module (3, H, W) uint8 -> the same shape, drawing from torch's generator.

    Raises:
        UsageError: no augmentation has that name.
    """
    if name not in AUGMENTATIONS:
        known = sorted(AUGMENTATIONS)
        raise UsageError(f"unknown augmentation {name!r}: one of {known} expected")
    return nn.Sequential(*AUGMENTATIONS[name](size_hw))


def augmented(augment: nn.Module, crop: Tensor, seed: int) -> Tensor:
    """``augment(crop)`` as a function of ``seed`` alone; the caller's generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed also asks other devices
        out: Tensor = augment(crop)
    return out
