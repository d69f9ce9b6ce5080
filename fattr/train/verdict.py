"""What the curves of a finished run say: learnt enough, too little, or by heart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

RISEN = 0.02  # of the lowest validation loss: more is a rise
STILL_FALLING = 0.01  # of the validation loss, over the last fifth of the epochs
TINY = 1e-12  # a loss of 0 has no ratio
GAP = 0.05  # of the score: more on training than on validation by this much is a gap


class Fit(StrEnum):
    """How well a network fits its data."""

    OVERFITTING = "overfitting"
    UNDERFITTING = "underfitting"
    GOOD = "good"


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reason`` is one line with the figures behind it and what to try."""

    fit: Fit
    reason: str


def verdict(history: Sequence[Mapping[str, float]]) -> Verdict:
    """From rows with ``epoch`` and ``valid_``/``train_`` losses and scores, one an epoch.

    All are of the averaged weights without augmentation, so that they can be compared.
    Overfitting: the validation loss rose again while that on training fell. Underfitting: it was
    still falling at the end and the scores had not come apart.
    """
    losses = [row["valid_loss"] for row in history]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    last = history[-1]
    gap = last["train_score"] - last["valid_score"]
    rise = losses[-1] / max(losses[lowest], TINY) - 1
    back = min(len(losses) - 1, max(1, len(losses) // 5))
    change = losses[-1] / max(losses[-1 - back], TINY) - 1
    scores = f"score {last['train_score']:.3f} on training, {last['valid_score']:.3f} on validation"
    if rise > RISEN and last["train_clean_loss"] < history[lowest]["train_clean_loss"]:
        epoch = int(history[lowest]["epoch"])
        return Verdict(
            Fit.OVERFITTING,
            f"{scores}; the validation loss rose by {rise:.1%} after epoch {epoch}: "
            "train for fewer epochs, or with more augmentation, MixUp or data",
        )
    if change < -STILL_FALLING and gap <= GAP:
        return Verdict(
            Fit.UNDERFITTING,
            f"{scores}; the validation loss was still falling ({-change:.1%} at the end): "
            "train for more epochs, with a higher rate or a larger network",
        )
    return Verdict(Fit.GOOD, f"{scores}; the validation loss changed by {change:+.1%} at the end")
