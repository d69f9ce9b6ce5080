import numpy as np
import pytest
import scipy.special
import torch
from sklearn.metrics import log_loss

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify.calibration import logit_slices
from fattr.train.losses import multi_task_loss

ATTRIBUTES = (attribute("smiling"), AGE, attribute("bald"), PERCEIVED_GENDER_PRESENTATION)


def random_task(n, known, seed=0):
    rng = np.random.default_rng(seed)
    targets = np.stack([rng.integers(0, a.num_values, n) for a in ATTRIBUTES], axis=1)
    targets[rng.random(targets.shape) >= known] = -1
    return rng.normal(0, 3, (n, 1 + 9 + 1 + 2)), targets


def by_scikit_learn(logits, targets):
    total = 0.0
    for index, attribute_ in enumerate(ATTRIBUTES):
        own = logits[:, logit_slices(ATTRIBUTES)[attribute_.name]]
        known = targets[:, index] >= 0
        if not known.any():
            continue
        if attribute_.num_logits == 1:
            own = np.hstack([np.zeros_like(own), own])  # a sigmoid is a softmax against 0
        probs = scipy.special.softmax(own[known], axis=1)
        labels = range(attribute_.num_values)
        total += known.sum() * log_loss(targets[known, index], probs, labels=labels)
    return total / targets.size


@pytest.mark.parametrize("known", [0.0, 0.3, 1.0])
def test_the_loss_is_scikit_learns_over_what_is_known(known):
    logits, targets = random_task(40, known)
    got = multi_task_loss(torch.from_numpy(logits), torch.from_numpy(targets), ATTRIBUTES)
    assert float(got) == pytest.approx(by_scikit_learn(logits, targets), rel=1e-5)


def test_an_unknown_label_teaches_nothing():
    logits, targets = random_task(12, 0.5)
    tensor = torch.from_numpy(logits).requires_grad_()
    multi_task_loss(tensor, torch.from_numpy(targets), ATTRIBUTES).backward()
    for index, columns in enumerate(logit_slices(ATTRIBUTES).values()):
        moved = tensor.grad[:, columns].abs().sum(dim=1) > 0
        assert moved.tolist() == (targets[:, index] >= 0).tolist()


@pytest.mark.parametrize("num_workers", [2, 4])
def test_the_mean_over_workers_is_the_loss_of_their_joint_batch(num_workers):
    logits, targets = (torch.from_numpy(part) for part in random_task(16, 0.4))
    joint = multi_task_loss(logits, targets, ATTRIBUTES)
    shares = [
        multi_task_loss(logits[r::num_workers], targets[r::num_workers], ATTRIBUTES)
        for r in range(num_workers)
    ]
    assert float(torch.stack(shares).mean()) == pytest.approx(float(joint), rel=1e-6)
