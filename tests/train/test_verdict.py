import numpy as np
import pytest

from fattr.train.verdict import Fit, verdict


def history(valid_loss, train_score, valid_score):
    epochs = range(1, len(valid_loss) + 1)
    return [
        {"epoch": e, "valid_loss": v, "train_score": t, "valid_score": s}
        for e, v, t, s in zip(epochs, valid_loss, train_score, valid_score, strict=True)
    ]


EPOCHS = np.arange(10)
FALLING = 0.7 * 0.9**EPOCHS
LEVEL = 0.3 + 0.4 * 0.3**EPOCHS
RISING = np.where(EPOCHS < 4, 0.7 - 0.1 * EPOCHS, 0.4 + 0.05 * (EPOCHS - 4))


@pytest.mark.parametrize(
    ("losses", "gap", "fit", "said"),
    [
        pytest.param(RISING, 0.15, Fit.OVERFITTING, "rose by 62.5% after epoch 4", id="by-heart"),
        pytest.param(RISING, 0.01, Fit.GOOD, "levelled off", id="rising-without-a-gap"),
        pytest.param(FALLING, 0.01, Fit.UNDERFITTING, "falling (19.0% at the end)", id="too-short"),
        pytest.param(FALLING, 0.15, Fit.GOOD, "levelled off", id="falling-with-a-gap"),
        pytest.param(LEVEL, 0.01, Fit.GOOD, "levelled off", id="level"),
        pytest.param(FALLING[:1], 0.0, Fit.GOOD, "levelled off", id="one-epoch"),
    ],
)
def test_verdicts(losses, gap, fit, said):
    scores = np.linspace(0.7, 0.8, len(losses))
    got = verdict(history(losses, scores + gap, scores))
    assert got.fit is fit
    assert said in got.reason
    assert f"score {scores[-1] + gap:.3f} on training, {scores[-1]:.3f} on validation" in got.reason
    assert "\n" not in got.reason
