import numpy as np
import pytest

from fattr.train.verdict import Fit, verdict


def history(valid_loss, train_loss, train_score, valid_score):
    epochs = np.arange(1, len(valid_loss) + 1)
    columns = {
        "epoch": epochs,
        "valid_loss": valid_loss,
        "train_clean_loss": train_loss,
        "train_score": train_score,
        "valid_score": valid_score,
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


EPOCHS = np.arange(10)
FALLING = 0.7 * 0.9**EPOCHS
LEVEL = 0.3 + 0.4 * 0.3**EPOCHS
RISING = np.where(EPOCHS < 4, 0.7 - 0.1 * EPOCHS, 0.4 + 0.05 * (EPOCHS - 4))


@pytest.mark.parametrize(
    ("losses", "learnt", "gap", "fit", "said"),
    [
        pytest.param(
            RISING, FALLING, 0.15, Fit.OVERFITTING, "rose by 62.5% after epoch 4", id="by-heart"
        ),
        pytest.param(
            RISING, FALLING, 0.01, Fit.OVERFITTING, "rose by 62.5% after epoch 4", id="in-loss-only"
        ),
        pytest.param(RISING, RISING, 0.01, Fit.GOOD, "changed by +18.2% at", id="both-rise"),
        pytest.param(
            FALLING, FALLING, 0.01, Fit.UNDERFITTING, "falling (19.0% at the end)", id="too-short"
        ),
        pytest.param(FALLING, FALLING, 0.15, Fit.GOOD, "changed by -19.0% at", id="with-a-gap"),
        pytest.param(LEVEL, FALLING, 0.01, Fit.GOOD, "changed by -0.0% at", id="level"),
        pytest.param(
            FALLING[:3], FALLING[:3], 0.0, Fit.UNDERFITTING, "falling (10.0% at", id="three-epochs"
        ),
        pytest.param(FALLING[:1], FALLING[:1], 0.0, Fit.GOOD, "changed by +0.0%", id="one-epoch"),
    ],
)
def test_verdicts(losses, learnt, gap, fit, said):
    scores = np.linspace(0.7, 0.8, len(losses))
    got = verdict(history(losses, learnt, scores + gap, scores))
    assert got.fit is fit
    assert said in got.reason
    assert f"score {scores[-1] + gap:.3f} on training, {scores[-1]:.3f} on validation" in got.reason
    assert "\n" not in got.reason
