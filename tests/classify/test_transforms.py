import io

import numpy as np
import pytest
import torch
from PIL import Image

from fattr.classify.transforms import (
    RandomDownscale,
    RandomJPEG,
    RandomSurroundings,
    augmented,
    build_augmentation,
)
from fattr.errors import UsageError

SIZE_HW = (64, 52)


@pytest.fixture
def crop():
    """Dark on the left, bright on the right, with some texture."""
    texture = torch.randint(0, 40, (3, *SIZE_HW), generator=torch.Generator().manual_seed(0))
    texture[:, :, SIZE_HW[1] // 2 :] += 150
    return texture.to(torch.uint8)


@pytest.fixture(params=["photo", "tight_photo", "bucket", "tight_bucket"])
def photo(request):
    return build_augmentation(request.param, SIZE_HW)


def test_a_seed_decides_the_augmentation(photo, crop):
    outputs = [augmented(photo, crop, seed) for seed in range(20)]
    again = [augmented(photo, crop, seed) for seed in range(20)]
    assert all(torch.equal(one, other) for one, other in zip(outputs, again, strict=True))
    assert len({one.numpy().tobytes() for one in outputs}) == 20
    assert {(one.shape, one.dtype) for one in outputs} == {(crop.shape, torch.uint8)}


def test_the_callers_generator_is_left_alone(photo, crop):
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    augmented(photo, crop, 7)
    assert torch.equal(torch.rand(3), wanted)


def test_the_border_is_repeated_not_black():
    photo = build_augmentation("photo", SIZE_HW)
    white = torch.full((3, *SIZE_HW), 255, dtype=torch.uint8)
    lowest = min(int(augmented(photo, white, seed).min()) for seed in range(40))
    assert lowest > 150  # brightness falls to 0.8 and contrast pulls to the mean; black would be 0


def test_none_changes_nothing(crop):
    assert torch.equal(augmented(build_augmentation("none", SIZE_HW), crop, 3), crop)


def test_a_downscaled_crop_loses_detail_and_keeps_its_mean(crop):
    noise = torch.randint(0, 256, crop.shape, generator=torch.Generator().manual_seed(1))
    noise = noise.to(torch.uint8)
    shrunk = augmented(RandomDownscale(p=1.0, smallest=0.3), noise, 0).float()
    assert shrunk.std() < 0.8 * noise.float().std()
    assert shrunk.mean() == pytest.approx(float(noise.float().mean()), abs=3)
    assert torch.equal(augmented(RandomDownscale(p=0.0, smallest=0.3), noise, 0), noise)


def test_surroundings_change_and_the_middle_does_not(crop):
    depth = 0.2
    paint = RandomSurroundings(p=1.0, deepest=depth)
    changed = torch.stack([augmented(paint, crop, seed) != crop for seed in range(30)]).any(dim=1)
    rows, columns = (int(depth * side) for side in SIZE_HW)
    assert not changed[:, rows:-rows, columns:-columns].any()
    share = changed.float().mean(dim=0)  # of the crops, how often a pixel was painted
    edges = (share[0], share[-1], share[:, 0], share[:, -1])
    assert all(edge.mean() > 0.75 for edge in edges)
    assert share[rows // 2, SIZE_HW[1] // 2] == pytest.approx(0.5, abs=0.25)
    assert torch.equal(augmented(RandomSurroundings(p=0.0, deepest=depth), crop, 0), crop)


def test_a_compressed_crop_is_pillows_jpeg_of_some_quality(crop):
    smallest = (augmented(RandomJPEG(p=1.0, lowest=30), crop, 0) - crop.float()).abs().mean()
    pixels, qualities = crop.permute(1, 2, 0).numpy(), range(30, 96)
    changed = {q: np.abs(through_jpeg(pixels, q) - pixels.astype(float)).mean() for q in qualities}
    assert changed[95] - 0.5 <= float(smallest) <= changed[30] + 0.5
    assert torch.equal(augmented(RandomJPEG(p=0.0, lowest=30), crop, 0), crop)


def through_jpeg(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UsageError) as caught:
        build_augmentation("fog", SIZE_HW)
    known = "['bucket', 'none', 'photo', 'tight_bucket', 'tight_photo']"
    assert str(caught.value) == f"unknown augmentation 'fog': one of {known} expected"
