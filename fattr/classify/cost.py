"""What a network costs: parameters, multiply-adds, and milliseconds an image on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fattr.attributes import Attribute
from fattr.classify.backbones import BACKBONES, check_crop_size
from fattr.classify.network import AttributeNet

RUNS, WARM_UP_RUNS = 3, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of labelling one crop, evaluation mode, float32."""

    backbone: str
    parameters: int
    multiply_adds: int  # of convolutions and matrix products, which are nearly all
    ms_alone: float  # in batches of 1
    ms_batched: float  # in batches of batch_size, divided by it
    batch_size: int


def count(
    backbone: str, attributes: Sequence[Attribute], size_hw: tuple[int, int]
) -> tuple[int, int]:
    """Parameters and multiply-adds an image; nothing is computed.

    ``FlopCounterMode`` counts a multiply-add as two operations; papers and this as one.
    """
    with torch.device("meta"):
        network = AttributeNet(backbone, attributes).eval()
        crops = torch.zeros((1, *size_hw, 3), dtype=torch.uint8)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(crops)
    return sum(p.numel() for p in network.parameters()), counter.get_total_flops() // 2


def _run_ms(network: nn.Module, crops: Tensor) -> float:
    started = time.perf_counter()
    network(crops).cpu()  # waits for a GPU
    return 1000 * (time.perf_counter() - started)


def ms_per_image(network: nn.Module, crops: Tensor) -> float:
    """Median over a few runs after a warm-up; ``crops`` (N, H, W, 3) on the network's device."""
    with torch.inference_mode():
        times = [_run_ms(network, crops) for _ in range(WARM_UP_RUNS + RUNS)]
    return median(times[WARM_UP_RUNS:]) / len(crops)


def measure(
    backbone: str,
    attributes: Sequence[Attribute],
    size_hw: tuple[int, int],
    *,
    device: str,
    batch_size: int,
) -> Cost:
    """What the network costs with crops of this size on ``device``.

    Raises:
        UsageError: there is no such backbone, or the crops are too small for it.
    """
    check_crop_size(backbone, size_hw)
    parameters, multiply_adds = count(backbone, attributes, size_hw)
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left alone
        network = AttributeNet(backbone, attributes).eval().to(device)
    crops = torch.zeros((batch_size, *size_hw, 3), dtype=torch.uint8, device=device)
    return Cost(
        backbone=backbone,
        parameters=parameters,
        multiply_adds=multiply_adds,
        ms_alone=ms_per_image(network, crops[:1]),
        ms_batched=ms_per_image(network, crops),
        batch_size=batch_size,
    )


def device_words(device: str) -> str:
    """What the times were taken on, such as "cpu, threads: 2"."""
    if device == "cpu":
        return f"cpu, threads: {torch.get_num_threads()}"
    return torch.cuda.get_device_name(device)


def cost_table(costs: Sequence[Cost]) -> str:
    """Costs of one batch size as text, a line each under a header."""
    title = f"ms/image, {costs[0].batch_size} at once"
    lines = [f"{'backbone':<20}{'parameters':>12}{'multiply-adds':>15}{'ms/image':>10}{title:>24}"]
    lines += [
        f"{c.backbone:<20}{c.parameters / 1e6:>10.2f} M{c.multiply_adds / 1e6:>13.0f} M"
        f"{c.ms_alone:>10.2f}{c.ms_batched:>24.2f}"
        for c in costs
    ]
    return "\n".join(lines)


def architectures_table(
    attributes: Sequence[Attribute], size_hw: tuple[int, int], *, device: str, batch_size: int
) -> Iterator[str]:
    """The costs of all backbones that take crops of this size, and which do not."""
    yield (
        f"crops of {size_hw[0]}x{size_hw[1]} (height x width), {len(attributes)} attributes, "
        f"{device_words(device)}, median of {RUNS} runs"
    )
    fitting = [name for name, b in BACKBONES.items() if b.min_px <= min(size_hw)]
    yield cost_table(
        [
            measure(name, attributes, size_hw, device=device, batch_size=batch_size)
            for name in fitting
        ]
    )
    for name, backbone in BACKBONES.items():
        if name not in fitting:
            yield f"{name} needs crops of {backbone.min_px} px or more a side"
