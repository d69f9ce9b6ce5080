"""A ``metrics.json`` as ``jobs/evaluate.py`` writes it, of drawn scores: no image, no model.

Figures are computed the short way from drawn probabilities, so that they agree with each other:
a rare group is served worse, small cells are "too few", and cells without a yes "not estimable".
Intervals are the normal approximation's: what is tested is how they are shown.
"""

from __future__ import annotations

import itertools
import json
import math

import numpy as np

from fattr.attributes import AGE, CELEBA40, Kind

MIN_N = 30
RACES = {
    "Black": 0.15,
    "East Asian": 0.15,
    "Indian": 0.14,
    "Latino_Hispanic": 0.16,
    "Middle Eastern": 0.03,
    "Southeast Asian": 0.12,
    "White": 0.242,
    "Other": 0.008,
}
METRICS = ("accuracy", "precision", "recall", "f1", "average_precision", "selection_rate")


def ratio(part, whole):
    return float(part) / float(whole) if whole else None


def interval(value, n):
    half = 1.96 * math.sqrt(max(value * (1 - value), 0.002) / max(n, 1))
    return [max(0.0, value - half), min(1.0, value + half)]


def average_precision(y, prob):
    if not y.any():
        return None
    hits = y[np.argsort(-prob)].cumsum()
    ranks = np.arange(1, len(y) + 1)
    return float((hits / ranks)[y[np.argsort(-prob)]].mean())


def roc_auc(y, prob):
    ranks = np.argsort(np.argsort(prob)) + 1
    true = int(y.sum())
    if not 0 < true < len(y):
        return None
    return float((ranks[y].sum() - true * (true + 1) / 2) / (true * (len(y) - true)))


def reliability(right, confidence):
    """Ten bins of equally many faces."""
    bins = np.array_split(np.argsort(confidence, kind="stable"), 10)
    return [
        {"n": len(b), "prob": float(confidence[b].mean()), "frac": float(right[b].mean())}
        for b in bins
        if len(b)
    ]


def ece(bins):
    total = sum(b["n"] for b in bins)
    return sum(b["n"] * abs(b["prob"] - b["frac"]) for b in bins) / total


def curve(right, confidence):
    order = np.argsort(-confidence, kind="stable")
    points = []
    for step in range(11):
        share = 1 - step / 20
        kept = max(1, round(len(right) * share))
        accuracy = float(right[order[:kept]].mean())
        points.append({"coverage": share, "kept": kept / len(right), "accuracy": accuracy})
    return points


def selective(right, confidence):
    points = curve(right, confidence)
    kept = np.argsort(-confidence)[: round(0.93 * len(right))]
    return {
        "coverage": 0.93,
        "accuracy": float(right[kept].mean()),
        "accuracy_at_90": points[2]["accuracy"],
        "curve": points,
    }


def kept_labels(right, confidence):
    """What a group has with abstention: no curve."""
    kept = selective(right, confidence)
    return {"selective": {name: kept[name] for name in ("coverage", "accuracy")}}


def binary_row(y, prob, threshold=0.5):
    y_pred = prob >= threshold
    hits, n = int((y & y_pred).sum()), len(y)
    recall, false_positive = ratio(hits, y.sum()), ratio((y_pred & ~y).sum(), (~y).sum())
    return {
        "n": n,
        "accuracy": ratio((y == y_pred).sum(), n),
        "balanced_accuracy": (
            None if recall is None or false_positive is None else (recall + 1 - false_positive) / 2
        ),
        "precision": ratio(hits, y_pred.sum()),
        "recall": recall,
        "f1": ratio(2 * hits, y.sum() + y_pred.sum()),
        "average_precision": average_precision(y, prob),
        "roc_auc": roc_auc(y, prob),
        "prevalence": ratio(y.sum(), n),
        "predicted_prevalence": ratio(y_pred.sum(), n),
        "selection_rate": ratio(y_pred.sum(), n),
        "false_positive_rate": false_positive,
        "ece": ece(reliability(y, prob)),
        "brier": float(((prob - y) ** 2).mean()),
    }


def class_row(target, probs):
    y_pred, n = probs.argmax(1), len(target)
    recalls = [ratio((y_pred[target == k] == k).sum(), (target == k).sum()) for k in (0, 1)]
    confidence = probs.max(1)
    return {
        "n": n,
        "accuracy": ratio((y_pred == target).sum(), n),
        "balanced_accuracy": None if None in recalls else sum(recalls) / 2,
        "precision": 0.91,
        "recall": 0.9,
        "f1": 0.905,
        "average_precision": 0.97,
        "roc_auc": 0.97,
        "ece": ece(reliability(y_pred == target, confidence)),
        "brier": float(((probs - np.eye(2)[target]) ** 2).sum(1).mean()),
    }


def age_row(target, probs):
    off = np.abs(probs.argmax(1) - target)
    years = np.array([(a + b) / 2 for a, b in itertools.pairwise(AGE.bin_edges)])
    error = probs @ years - years[target]
    bins = reliability(off == 0, probs.max(1))
    return {
        "n": len(target),
        "accuracy": float((off == 0).mean()),
        "one_off_accuracy": float((off <= 1).mean()),
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt((error**2).mean())),
        "cs5": float((np.abs(error) <= 5).mean()),
        "ece": ece(bins),
        "brier": 0.61,
    }


YEARS = ("mae", "rmse", "bias")
NOT_SHARES = (*YEARS, "n", "ece", "brier")


def intervals(row):
    found = {}
    for metric, value in row.items():
        if metric in ("mae", "rmse"):
            found[metric] = [value - 0.3, value + 0.3]
        elif metric not in NOT_SHARES and isinstance(value, float):
            found[metric] = interval(value, row["n"])
    return found


def group_rows(groups, row_of):
    """What each value's faces give; ``row_of`` takes a mask."""
    rows = {}
    for value in sorted(set(groups)):
        mask = groups == value
        if mask.sum() < MIN_N:
            rows[value] = {"n": int(mask.sum()), "status": "too few"}
            continue
        row = row_of(mask)
        missing = [metric for metric, one in row.items() if one is None]
        rows[value] = row | {
            "status": "ok",
            "not_estimable": missing,
            "intervals": intervals(row),
        }
    return rows


def spread(rows, metric):
    """Difference and ratio of a metric over the groups that have it."""
    known = {value: row[metric] for value, row in rows.items() if row.get(metric) is not None}
    if len(known) < 2:
        return None
    higher = metric not in (
        "ece",
        "mae",
        "false_positive_rate",
        "selection_rate",
        "abstained_frac",
    )
    best, worst = (max, min) if higher else (min, max)
    top, low = best(known, key=known.get), worst(known, key=known.get)
    gap = abs(known[top] - known[low])
    between = ratio(min(known.values()), max(known.values()))
    return {
        "difference": gap,
        "difference_interval": [max(0.0, gap - 0.03), gap + 0.04],
        "difference_by_chance": 0.06,
        "ratio": between,
        "ratio_interval": None
        if between is None
        else [max(0, between - 0.05), min(1, between + 0.04)],
        "worst_group": low,
        "worst": known[low],
        "best_group": top,
        "best": known[top],
    }


def fairness(rows):
    used = [value for value, row in rows.items() if row["status"] == "ok"]
    some = {value for value in used if rows[value]["not_estimable"]}
    metrics = {
        metric: found
        for metric in (*METRICS, "false_positive_rate", "ece", "one_off_accuracy", "mae")
        if (found := spread(rows, metric))
    }
    rates = [rows[v].get("selection_rate") for v in used if v not in some]
    has_rates = len(rates) > 1 and None not in rates
    opportunity = [rows[v].get("recall") for v in used if v not in some]
    return {
        **metrics,
        "demographic_parity_difference": max(rates) - min(rates) if has_rates else None,
        "demographic_parity_ratio": ratio(min(rates), max(rates)) if has_rates else None,
        "equalized_odds_difference": 0.21 if has_rates else None,
        "equalized_odds_ratio": 0.4 if has_rates else None,
        "equal_opportunity_difference": (
            max(opportunity) - min(opportunity) if has_rates else None
        ),
        "equal_opportunity_ratio": ratio(min(opportunity), max(opportunity)) if has_rates else None,
        "groups_compared": [value for value in used if value not in some],
        "groups_left_out": {
            value: "too few" if value not in used else "not estimable"
            for value in rows
            if value not in used or value in some
        },
    }


def by_group(groups, row_of):
    rows = {column: group_rows(values, row_of) for column, values in groups.items()}
    return {"by_group": rows, "fairness": {c: fairness(own) for c, own in rows.items()}}


def draw_groups(rng, num_faces):
    race = rng.choice(list(RACES), num_faces, p=list(RACES.values()))
    presentation = rng.choice(["feminine", "masculine"], num_faces, p=[0.55, 0.45])
    both = np.char.add(np.char.add(race, "|"), presentation)
    return {
        "race": race,
        "perceived_gender_presentation": presentation,
        "race*perceived_gender_presentation": both,
    }


def binary_attribute(rng, groups, name):
    """Figures of one drawn attribute; some are rare, all are worse for one group."""
    presentation, race = groups["perceived_gender_presentation"], groups["race"]
    logits = rng.uniform(-5, 0) + rng.uniform(1.5, 4.5) * rng.standard_normal(len(race))
    if name in ("bald", "mustache", "goatee"):
        logits -= np.where(presentation == "feminine", 30.0, 1.0)
    y = rng.random(len(race)) < 1 / (1 + np.exp(-logits))
    seen = logits + np.where(race == "Black", 2.5, 0.8) * rng.standard_normal(len(race))
    prob = 1 / (1 + np.exp(-seen))
    row = binary_row(y, prob)
    right, confidence = (prob >= 0.5) == y, np.abs(prob - 0.5)
    return (
        row
        | {
            "threshold": 0.5,
            "intervals": intervals(row),
            "reliability": reliability(y, prob),
            "selective": selective(right, confidence),
        }
        | by_group(
            groups,
            lambda mask: (
                binary_row(y[mask], prob[mask]) | kept_labels(right[mask], confidence[mask])
            ),
        )
    )


def class_attribute(rng, groups):
    names = ("feminine", "masculine")
    target = (groups["perceived_gender_presentation"] == names[1]).astype(int)
    logits = (2 * target - 1) * np.where(groups["race"] == "Black", 1.3, 2.4)
    masculine = 1 / (1 + np.exp(-(logits + 1.6 * rng.standard_normal(len(target)))))
    probs = np.stack([1 - masculine, masculine], 1)
    row, y_pred = class_row(target, probs), probs.argmax(1)
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (target, y_pred), 1)
    per_class = {
        name: {
            "n": int((target == k).sum()),
            "precision": ratio(confusion[k, k], confusion[:, k].sum()),
            "recall": ratio(confusion[k, k], confusion[k].sum()),
            "f1": ratio(2 * confusion[k, k], confusion[k].sum() + confusion[:, k].sum()),
            "average_precision": average_precision(target == k, probs[:, k]),
        }
        for k, name in enumerate(names)
    }
    return (
        row
        | {
            "intervals": intervals(row),
            "per_class": per_class,
            "confusion": confusion.tolist(),
            "reliability": reliability(y_pred == target, probs.max(1)),
            "selective": selective(y_pred == target, probs.max(1)),
        }
        | by_group(groups, lambda mask: class_row(target[mask], probs[mask]))
    )


def age_attribute(rng, groups):
    num = len(groups["race"])
    target = rng.choice(9, num, p=[0.02, 0.1, 0.1, 0.3, 0.2, 0.12, 0.08, 0.05, 0.03])
    centre = target + 0.8 * rng.standard_normal(num)
    probs = np.exp(-((np.arange(9) - centre[:, None]) ** 2) / 1.4)
    probs /= probs.sum(1, keepdims=True)
    row, y_pred = age_row(target, probs), probs.argmax(1)
    confusion = np.zeros((9, 9), int)
    np.add.at(confusion, (target, y_pred), 1)
    per_bin = {}
    for k, name in enumerate(AGE.classes):
        own = age_row(target[target == k], probs[target == k])
        kept = {metric: own[metric] for metric in ("n", "accuracy", "one_off_accuracy", "mae")}
        per_bin[name] = kept | {"bias": 2.5 - 0.7 * k}
    return (
        row
        | {
            "intervals": intervals(row),
            "per_bin": per_bin,
            "confusion": confusion.tolist(),
            "reliability": reliability(y_pred == target, probs.max(1)),
            "selective": selective(y_pred == target, probs.max(1)),
        }
        | by_group(groups, lambda mask: age_row(target[mask], probs[mask]))
    )


def mean(values):
    known = [value for value in values if value is not None]
    return ratio(sum(known), len(known))


def means(attributes):
    """Macro, micro and selective parts, over all but age."""
    counted = [row for name, row in attributes.items() if name != "age"]
    metrics = ("accuracy", "balanced_accuracy", *METRICS[1:5], "roc_auc", "ece", "brier")
    macro = {metric: mean(row[metric] for row in counted) for metric in metrics}
    known = {metric: sum(row[metric] is not None for row in counted) for metric in metrics}
    points = zip(*(row["selective"]["curve"] for row in counted), strict=True)
    own = [row["selective"] for row in counted]
    return {
        "num_macro_attributes": len(counted),
        "macro": macro | {"num_attributes": known},
        "micro": {"accuracy": macro["accuracy"], "precision": 0.77, "recall": 0.64, "f1": 0.699},
        "selective": {
            "coverage": mean(one["coverage"] for one in own),
            "accuracy": mean(one["accuracy"] for one in own),
            "accuracy_at_full_coverage": macro["accuracy"],
            "accuracy_at_90": mean(one["accuracy_at_90"] for one in own),
            "curve": [
                {"coverage": p[0]["coverage"], "accuracy": mean(one["accuracy"] for one in p)}
                for p in points
            ],
        },
    }


def coverage_gaps(covered):
    return {
        column: {
            metric: found
            for metric in ("detection_recall", "abstained_frac")
            if (found := spread(rows, metric))
        }
        for column, rows in covered.items()
    }


def coverage(rng, groups):
    def row_of(mask):
        n = int(mask.sum())
        return {
            "n": n,
            "detection_recall": 1 - rng.integers(0, max(2, n // 25)) / n,
            "too_small_frac": rng.integers(0, max(2, n // 12)) / n,
            "abstained_frac": float(rng.uniform(0.04, 0.12)),
        }

    return {column: group_rows(values, row_of) for column, values in groups.items()}


def robustness():
    """Curves that fall as a corruption grows."""
    values = {
        "face_size": ("px", (15, 20, 24, 32, 48, 64, 96, 128, 224), False),
        "blur": ("sigma, px of the face", (0, 1, 2, 4, 6, 8), True),
        "jpeg": ("quality", (5, 10, 20, 40, 75, 95), False),
        "rotation": ("degrees", (0, 15, 30, 45, 60, 90), True),
    }
    found = {}
    for name, (unit, steps, falls) in values.items():
        points = []
        for i, value in enumerate(steps):
            harm = (i if falls else len(steps) - 1 - i) / (len(steps) - 1)
            points.append(
                {
                    "value": value,
                    "detection_recall": 0.99 - 0.6 * harm**3,
                    "accuracy": 0.91 - 0.16 * harm**2,
                    "abstained_frac": 0.07 + 0.2 * harm**2,
                    "n": 400,
                }
            )
        label = "JPEG" if name == "jpeg" else name.replace("_", " ").capitalize()
        found[name] = {"label": label, "unit": unit, "points": points}
    first = found["face_size"]["points"][0]
    first |= {"status": "too few", "accuracy": None, "abstained_frac": None}
    found["face_size"]["gate"] = {
        "min_face_px": 24.0,
        "suggested_px": 48.0,
        "max_drop": 0.02,
        "min_recall": 0.95,
    }
    return found


CONSISTENCY = {
    "bald_and_bangs": {
        "description": "bald, and hair over the forehead",
        "n": 2000,
        "count": 3,
        "rate": 0.0015,
        "interval": [0.0005, 0.0044],
        "target_n": 2000,
        "target_count": 1,
        "target_rate": 0.0005,
        "target_interval": [0.0001, 0.0028],
    },
    "no_beard_and_goatee": {
        "description": "no beard of any kind, and a goatee",
        "n": 2000,
        "count": 11,
        "rate": 0.0055,
        "interval": [0.0031, 0.0098],
    },
}
REQUIREMENTS = [
    {
        "text": "macro_f1>=0.70",
        "metric": "macro_f1",
        "op": ">=",
        "bar": 0.7,
        "value": 0.61,
        "met": False,
    },
    {
        "text": "worst_group_gap<=0.20",
        "metric": "worst_group_gap",
        "op": "<=",
        "bar": 0.2,
        "value": 0.12,
        "met": True,
    },
]


def against(attributes):
    """Another model that is worse, but not for everyone."""

    def change(value, half=0.01):
        return {"difference": value, "interval": [value - half, value + half]}

    return {
        "model": "older",
        "model_id": "d" * 64,
        "n": 2000,
        "macro": {
            "accuracy": change(0.012, 0.004),
            "balanced_accuracy": change(0.02),
            "f1": change(0.004),
            "average_precision": {"difference": None, "interval": None},
        },
        "attributes": {
            name: {
                "accuracy": change(0.01),
                **({} if name == "age" else {"f1": change(-0.003)}),
                "n": 2000,
                "n_better": 61,
                "n_worse": 41,
                "p_mcnemar": 0.059,
            }
            for name in attributes
        },
        "num_cells": 500,
        "regressions": [
            {
                "attribute": "smiling",
                "column": "race",
                "group": "Black",
                "n": 309,
                "difference": -0.06,
                "interval": [-0.09, -0.03],
                "p_mcnemar": 0.00001,
                "confirmed": True,
            },
            {
                "attribute": "bald",
                "column": "race*perceived_gender_presentation",
                "group": "Black|masculine",
                "n": 131,
                "difference": -0.03,
                "interval": [-0.06, -0.001],
                "p_mcnemar": 0.03,
                "confirmed": False,
            },
        ],
        "verdict": "better, worse for race Black",
        "summary": "looks against older, 2000 faces: macro accuracy +0.012 (+0.008 to +0.016)",
    }


def evaluation_metrics(*, num_faces=2000, seed=0):
    """All of the contract: 41 attributes, two group columns and their pairs."""
    rng = np.random.default_rng(seed)
    groups = draw_groups(rng, num_faces)
    covered = coverage(np.random.default_rng(seed), groups)
    attributes = {"age": age_attribute(rng, groups)}
    for attribute in CELEBA40:
        is_binary = attribute.kind is Kind.BINARY
        attributes[attribute.name] = (
            binary_attribute(rng, groups, attribute.name)
            if is_binary
            else class_attribute(rng, groups)
        )
    metrics = {
        "model": "looks",
        "model_id": "c" * 64,
        "data": "drawn",
        "split": "test",
        "crops": "detect",
        "engine": "local",
        "detector": {
            "name": "retinaface_mobilenet025",
            "sha256": "b" * 64,
            "detect_size": 640,
            "score_threshold": 0.5,
        },
        "licence": {"model": "for tests only", "data": "drawn for tests"},
        "research_only": True,
        "command": "python jobs/evaluate.py --model looks --data drawn:DIR --output DIR",
        "run_id": "20261124T063700-abcdef",
        "seconds": 101.5,
        "versions": {"fattr": "0.1.0", "numpy": "2.4.6", "python": "3.11.7"},
        "num_images": num_faces,
        "detection_recall": 0.989,
        "min_face_px": 24.0,
        "gated_frac": 0.012,
        **means(attributes),
        "attributes": attributes,
        "coverage": covered,
        "coverage_gaps": coverage_gaps(covered),
        "consistency": CONSISTENCY,
        "robustness": robustness(),
        "mistakes": {
            "smiling": {
                "n_confident_mistakes": 12,
                "n_likely_label_errors": 31,
                "hardest_group": "race Black: 0.803 of 309",
            },
            "bald": {
                "n_confident_mistakes": 2,
                "n_likely_label_errors": 0,
                "hardest_group": None,
            },
        },
        "requirements": REQUIREMENTS,
        "against": against(attributes),
    }
    return json.loads(json.dumps(metrics))  # as a reader of the file has it


def small_metrics():
    """What the least evaluation gives: one attribute, no groups, none of the optional parts."""
    return {
        "model": "tiny",
        "model_id": "a" * 64,
        "data": "drawn",
        "split": "valid",
        "crops": "dataset",
        "detector": None,
        "licence": {"model": "free", "data": "free"},
        "research_only": False,
        "command": "python jobs/evaluate.py --model tiny --data drawn:DIR --output DIR",
        "run_id": "20261124T063700-abcdef",
        "seconds": 1.5,
        "versions": {},
        "num_images": 20,
        "detection_recall": None,
        "min_face_px": 24.0,
        "gated_frac": None,
        "num_macro_attributes": 1,
        "macro": {
            "accuracy": 0.75,
            "balanced_accuracy": None,
            "f1": None,
            "average_precision": None,
            "num_attributes": {"accuracy": 1, "balanced_accuracy": 0, "f1": 0},
        },
        "attributes": {
            "smiling": {
                "n": 20,
                "accuracy": 0.75,
                "balanced_accuracy": None,
                "precision": None,
                "recall": None,
                "f1": None,
                "average_precision": None,
                "prevalence": 0.0,
                "predicted_prevalence": 0.25,
            }
        },
    }
