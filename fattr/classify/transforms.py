"""What training does to a crop and serving never does: augmentation, seeded per sample."""

from __future__ import annotations

import torch
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


def _photo(size_hw: tuple[int, int]) -> nn.Module:
    """Flip, small rotation, scale and shift with the border repeated, light, loss of detail."""
    margin = max(size_hw) // 6
    pipeline: nn.Module = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.Pad(margin, padding_mode="edge"),
            v2.RandomAffine(
                degrees=8,
                translate=(0.04, 0.04),
                scale=(0.9, 1.1),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.CenterCrop(list(size_hw)),
            v2.ColorJitter(brightness=0.2, contrast=0.2),
            RandomDownscale(p=0.3, smallest=0.3),
        ]
    )
    return pipeline


def _none(size_hw: tuple[int, int]) -> nn.Module:
    return nn.Identity()


AUGMENTATIONS = {"photo": _photo, "none": _none}


def build_augmentation(name: str, size_hw: tuple[int, int]) -> nn.Module:
    """A module (3, H, W) uint8 -> the same shape, drawing from torch's generator.

    Raises:
        UsageError: no augmentation has that name.
    """
    if name not in AUGMENTATIONS:
        known = sorted(AUGMENTATIONS)
        raise UsageError(f"unknown augmentation {name!r}: one of {known} expected")
    return AUGMENTATIONS[name](size_hw)


def augmented(augment: nn.Module, crop: Tensor, seed: int) -> Tensor:
    """``augment(crop)`` as a function of ``seed`` alone; the caller's generator is untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out: Tensor = augment(crop)
    return out
