import itertools

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from sklearn.metrics import log_loss
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.classify.calibration import logit_slices
from fattr.train.loss_settings import LossSettings
from fattr.train.losses import (
    LossWeights,
    joint_loss,
    mixed_loss,
    multi_task_loss,
    positive_weights,
    soft_age_targets,
)

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


# Other losses, each against an independent source

SMILING, PRESENTATION = ATTRIBUTES[0], ATTRIBUTES[3]
EXTREME = [-200.0, -30.0, -5.0, -0.5, 0.0, 0.5, 5.0, 30.0, 200.0]


def binary_task(dtype=torch.float64):
    """Each extreme and some random logits once with a false and once with a true label."""
    values = [*EXTREME, *np.random.default_rng(0).normal(0, 2, 12)]
    logits = torch.tensor(values * 2, dtype=dtype)[:, None]
    return logits, torch.tensor([0] * len(values) + [1] * len(values))[:, None]


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_torchvisions(gamma, alpha):
    logits, targets = binary_task()
    settings = LossSettings(binary="focal", focal_gamma=gamma, focal_alpha=alpha)
    got = multi_task_loss(logits, targets, (SMILING,), settings)
    wanted = sigmoid_focal_loss(
        logits, targets.double(), alpha=-1 if alpha is None else alpha, gamma=gamma
    )
    assert float(got) == pytest.approx(float(wanted.mean()), rel=1e-9)


def asymmetric_by_the_paper(logit, is_true, settings):
    """Ridnik et al. (2021), equations 4 to 7, with plain numbers."""
    p = scipy.special.expit(logit)
    if is_true:
        return -((1 - p) ** settings.asymmetric_gamma_pos) * np.log(p)
    shifted = max(p - settings.asymmetric_clip, 0)
    return -(shifted**settings.asymmetric_gamma_neg) * np.log(1 - shifted)


@pytest.mark.parametrize("gammas", [(0.0, 4.0), (1.0, 2.0), (0.0, 0.0), (0.5, 0.5)])
@pytest.mark.parametrize("clip", [0.0, 0.05, 0.2])
def test_asymmetric_loss_is_the_papers(gammas, clip):
    settings = LossSettings(
        binary="asymmetric",
        asymmetric_gamma_pos=gammas[0],
        asymmetric_gamma_neg=gammas[1],
        asymmetric_clip=clip,
    )
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(0, 3, 40), rng.integers(0, 2, 40)
    wanted = [asymmetric_by_the_paper(x, t, settings) for x, t in zip(logits, targets, strict=True)]
    tensors = torch.from_numpy(logits)[:, None], torch.from_numpy(targets)[:, None]
    got = multi_task_loss(*tensors, (SMILING,), settings)
    assert float(got) == pytest.approx(np.mean(wanted), rel=1e-9)


def test_with_neither_focus_nor_clip_all_binary_losses_are_one():
    logits, targets = binary_task()
    plain = (
        LossSettings(binary="asymmetric", asymmetric_gamma_neg=0.0, asymmetric_clip=0.0),
        LossSettings(binary="focal", focal_gamma=0.0),
    )
    wanted = float(multi_task_loss(logits, targets, (SMILING,)))
    for settings in plain:
        got = float(multi_task_loss(logits, targets, (SMILING,), settings))
        assert got == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(binary="focal", focal_gamma=0.5),
        LossSettings(binary="focal"),
        LossSettings(binary="asymmetric"),
        LossSettings(binary="asymmetric", asymmetric_gamma_neg=0.5),
        LossSettings(binary="asymmetric", asymmetric_clip=0.0, asymmetric_gamma_pos=0.5),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_extreme_logits_have_finite_losses_and_slopes(settings, dtype):
    logits, targets = binary_task(dtype)
    logits.requires_grad_()
    loss = multi_task_loss(logits, targets, (SMILING,), settings)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs_and_of_classes_alone(smoothing):
    logits, targets = (torch.from_numpy(part) for part in random_task(30, 1.0))
    settings = LossSettings(label_smoothing=smoothing)
    own = logits[:, -2:], targets[:, 3]
    got = multi_task_loss(own[0], own[1][:, None], (PRESENTATION,), settings)
    wanted = F.cross_entropy(*own, label_smoothing=smoothing)
    assert float(got) == pytest.approx(float(wanted), rel=1e-9)
    others = logits[:, :-2], targets[:, :3], ATTRIBUTES[:3]
    assert torch.equal(multi_task_loss(*others, settings), multi_task_loss(*others))


def soft_by_scipy(bin_, sigma):
    """Mass of a normal distribution about the bin's middle within each bin, scaled to 1."""
    edges = AGE.bin_edges
    centre = (edges[bin_] + edges[bin_ + 1]) / 2
    pairs = itertools.pairwise(edges)
    norm = scipy.stats.norm(centre, sigma)
    mass = np.array([norm.cdf(high) - norm.cdf(low) for low, high in pairs])
    return mass / mass.sum()


@pytest.mark.parametrize("sigma", [0.5, 5.0, 20.0])
def test_soft_ages_are_scipys_normal_over_the_bins(sigma):
    got = soft_age_targets(AGE.bin_edges, sigma).numpy()
    wanted = [soft_by_scipy(bin_, sigma) for bin_ in range(9)]
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    logits, targets = random_task(20, 1.0)
    own, bins = logits[:, 1:10], targets[:, 1]
    log_probs = scipy.special.log_softmax(own, axis=1)
    by_hand = -np.mean([wanted[b] @ row for b, row in zip(bins, log_probs, strict=True)])
    loss = multi_task_loss(
        torch.from_numpy(own),
        torch.from_numpy(bins)[:, None],
        (AGE,),
        LossSettings(age_sigma=sigma),
    )
    assert float(loss) == pytest.approx(by_hand, rel=1e-9)


@pytest.mark.parametrize("binary", ["bce", "focal", "asymmetric"])
@pytest.mark.parametrize("known", [0.0, 0.5])
def test_an_unknown_label_teaches_nothing_under_any_loss(binary, known):
    logits, targets = random_task(12, known)
    tensor = torch.from_numpy(logits).requires_grad_()
    # A clip of 0: a false sample below it would teach nothing either.
    settings = LossSettings(binary=binary, asymmetric_clip=0.0, label_smoothing=0.1, age_sigma=4.0)
    weights = LossWeights(attribute=(1.0, 2.0, 3.0, 4.0), positive=(2.0, 1.0, 3.0, 1.0))
    loss = multi_task_loss(tensor, torch.from_numpy(targets), ATTRIBUTES, settings, weights)
    loss.backward()
    assert (float(loss.detach()) == 0) == (known == 0)
    for index, columns in enumerate(logit_slices(ATTRIBUTES).values()):
        moved = tensor.grad[:, columns].abs().sum(dim=1) > 0
        assert moved.tolist() == (targets[:, index] >= 0).tolist()


def test_weights_multiply_attributes_and_true_samples():
    """Against torch's pos_weight, and against the unweighted losses of single attributes."""
    logits, targets = (torch.from_numpy(part) for part in random_task(25, 0.7))
    factors = (0.5, 2.0, 3.0, 1.5)
    weights = LossWeights(attribute=factors, positive=(4.0, 1.0, 1.0, 1.0))
    got = multi_task_loss(logits, targets, ATTRIBUTES, weights=weights)
    parts = [
        multi_task_loss(logits[:, columns], targets[:, [i]], (ATTRIBUTES[i],))
        for i, columns in enumerate(logit_slices(ATTRIBUTES).values())
    ]
    known = targets[:, 0] >= 0
    parts[0] = (
        F.binary_cross_entropy_with_logits(
            logits[known, 0],
            targets[known, 0].double(),
            pos_weight=torch.tensor(4.0),
            reduction="sum",
        )
        / 25
    )
    wanted = sum(f * float(p) for f, p in zip(factors, parts, strict=True)) / 4
    assert float(got) == pytest.approx(wanted, rel=1e-9)


def test_positive_weights_are_false_over_true_within_bounds():
    columns = {
        "quarter": [1] * 5 + [0] * 15,
        "rare": [1] + [0] * 19,
        "frequent": [1] * 15 + [0] * 5,
        "never": [0] * 20,
        "unlabelled": [-1] * 20,
        "partly": [1, 0, 0] + [-1] * 17,
        "classes": [1] * 2 + [0] * 18,
    }
    attributes = [attribute("smiling")] * 6 + [PRESENTATION]
    got = positive_weights(np.array(list(columns.values())).T, attributes, largest=10.0)
    assert dict(zip(columns, got, strict=True)) == {
        "quarter": 3.0,
        "rare": 10.0,
        "frequent": 1.0,
        "never": 10.0,
        "unlabelled": 1.0,
        "partly": 2.0,
        "classes": 1.0,
    }


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mixed_loss_is_that_of_the_mixed_target(share):
    """Written out with soft targets, which torch takes: BCE, smoothed classes, soft ages."""
    logits, targets = (torch.from_numpy(part) for part in random_task(16, 1.0))
    others = targets.flip(0)
    settings = LossSettings(label_smoothing=0.1, age_sigma=5.0)
    got = mixed_loss(logits, targets, others, share, ATTRIBUTES, settings)

    def mix(one, other):
        return share * one + (1 - share) * other

    def binary(column, index):
        soft = mix(targets[:, index].double(), others[:, index].double())
        return F.binary_cross_entropy_with_logits(logits[:, column], soft)

    ages = torch.from_numpy(np.stack([soft_by_scipy(b, 5.0) for b in range(9)]))
    classes = torch.eye(2, dtype=torch.float64)
    age = mix(ages[targets[:, 1]], ages[others[:, 1]])
    presentation = mix(classes[targets[:, 3]], classes[others[:, 3]])
    parts = [
        binary(0, 0),
        F.cross_entropy(logits[:, 1:10], age),
        binary(10, 2),
        F.cross_entropy(logits[:, 11:], presentation, label_smoothing=0.1),
    ]
    assert float(got) == pytest.approx(float(sum(parts)) / 4, rel=1e-9)


def test_in_a_mix_an_unknown_label_loses_its_own_share_alone():
    logits = torch.tensor([[0.7]], dtype=torch.float64)
    true, unknown = torch.tensor([[1]]), torch.tensor([[-1]])
    alone = float(multi_task_loss(logits, true, (SMILING,)))
    assert float(mixed_loss(logits, true, unknown, 0.3, (SMILING,))) == pytest.approx(0.3 * alone)
    assert float(mixed_loss(logits, unknown, true, 0.3, (SMILING,))) == pytest.approx(0.7 * alone)


def test_an_auxiliary_output_counts_two_fifths():
    one, other = torch.tensor(2.0), torch.tensor(5.0)
    assert float(joint_loss([one])) == 2.0
    assert float(joint_loss([one, other])) == pytest.approx(2 + 0.4 * 5)
