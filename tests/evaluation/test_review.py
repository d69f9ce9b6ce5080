"""Error analysis against cleanlab and brute force, and the loop: export, correct, read again."""

from __future__ import annotations

import csv
import io
import tomllib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from cleanlab.filter import find_label_issues
from cleanlab.rank import get_self_confidence_for_each_label
from PIL import Image

from fattr import storage
from fattr.attributes import AGE, EMOTION, Attribute, Kind, attribute
from fattr.datasets import DatasetSplit, read_dataset, read_image, synthetic
from fattr.errors import UsageError
from fattr.evaluation import review as reviewing
from fattr.evaluation.review import (
    CAUTION,
    Finding,
    likely_label_errors,
    priorities,
    review,
    write_relabel,
)
from fattr.evaluation.scores import Scores, scores_table
from fattr.metrics.by_group import group_members
from fattr.metrics.compare import Answers
from fattr.metrics.intervals import wilson_interval
from fattr.records import Sample

SMILING, HAT = attribute("smiling"), attribute("wearing_hat")
MASK = Attribute(
    name="face_mask",
    kind=Kind.CATEGORICAL,
    description='what covers "mouth" and nose',
    classes=("none", "cloth", "left = \\ right"),
    mirrored=(0, 2, 1),
)
YEARS = Attribute(
    name="years",
    kind=Kind.AGE,
    description="in two bins",
    sensitive=True,
    classes=("3-9", "10+"),
    bin_edges=(3.0, 10.0, float("inf")),
)


def scored(attributes, targets, *, uris=None):
    """Scores of faces with these targets; review asks ``answers`` for probabilities."""
    n = len(targets)
    return Scores(
        tuple(attributes),
        scores_table(
            attributes,
            image_uris=uris or [f"file:///{i}.png" for i in range(n)],
            found=np.ones(n, bool),
            face_px=np.full(n, 50, np.float32),
            targets=np.asarray(targets),
            logits=np.zeros((n, sum(a.num_logits for a in attributes)), np.float32),
            groups={},
        ),
    )


def answers(probs, thresholds=None):
    """``probs``: attribute name -> (N,) or (N, K)."""
    return Answers(
        model="m",
        model_id="id",
        probs=lambda a: np.asarray(probs[a.name], np.float32),
        thresholds=thresholds or {},
    )


def binary_review(targets, probs, *, threshold=0.5, groups=None, **options):
    return review(
        scored([SMILING], np.asarray(targets)[:, None]),
        answers({"smiling": probs}, {"smiling": threshold}),
        group_members(groups or {}),
        **{"split": "test"} | options,
    )


# Mistakes


def test_mistakes_begin_with_the_most_probable_wrong_answer():
    targets = [0, 1, 0, 1, -1, 0, 1]
    probs = [0.7, 0.02, 0.95, 0.9, 0.99, 0.1, 0.05]
    (found,) = binary_review(targets, probs).attributes
    assert [f.face for f in found.mistakes] == [1, 2, 6, 0]
    assert found.mistakes[0] == Finding(1, 1, 0, pytest.approx(0.98))
    assert (found.n, found.num_mistakes, found.num_confident) == (6, 4, 3)
    assert found.mistakes[1].caption(SMILING) == ("labelled false", "model says true 0.95")
    (short,) = binary_review(targets, probs, num_shown=2).attributes
    assert [f.face for f in short.mistakes] == [1, 2]
    assert short.num_mistakes == 4


def test_the_threshold_says_what_is_a_mistake():
    (found,) = binary_review([0, 1, 0], [0.4, 0.4, 0.2], threshold=0.3).attributes
    assert [(f.face, f.predicted, f.prob) for f in found.mistakes] == [(0, 1, pytest.approx(0.4))]


def test_equal_mistakes_keep_the_order_of_the_data_set():
    (found,) = binary_review([0] * 50, [0.9] * 50).attributes
    assert [f.face for f in found.mistakes] == list(range(24))


def test_mistakes_of_classes():
    targets = np.asarray([[2], [0], [5]])
    probs = np.full((3, 8), 0.01)
    probs[[0, 1, 2], [2, 7, 4]] = 0.93
    found = review(
        scored([EMOTION], targets), answers({"emotion": probs}), {}, split="test"
    ).attributes[0]
    assert [(f.face, f.labelled, f.predicted) for f in found.mistakes] == [(1, 0, 7), (2, 5, 4)]
    assert found.mistakes[0].caption(EMOTION) == ("labelled neutral", "model says contempt 0.93")


# Hardest groups


def test_the_hardest_group_is_the_one_most_often_wrong():
    targets = np.zeros(160, int)
    targets[150:] = -1
    probs = np.full(160, 0.1)
    probs[[*range(9), *range(60, 63), 155]] = 0.9
    race = ["x"] * 60 + ["y"] * 60 + ["few"] * 29 + ["x"] * 11
    (found,) = binary_review(targets, probs, groups={"race": race}).attributes
    x, y = found.hardest_groups
    assert (x.column, x.group, x.n, x.error_rate) == ("race", "x", 61, 9 / 61)
    assert (y.group, y.n, y.error_rate) == ("y", 60, 3 / 60)
    assert x.interval == wilson_interval(9, 61)
    assert str(y) == "race y: 0.050 wrong (0.017 to 0.137), n 60"


def test_figures_for_json():
    made = binary_review([0] * 40, [0.95] * 40, groups={"race": ["x"] * 40})
    assert made.figures() == {
        "smiling": {
            "n_confident_mistakes": 40,
            "n_likely_label_errors": 0,  # one class alone says nothing
            "hardest_group": "race x: 1.000 wrong (0.912 to 1.000), n 40",
        }
    }
    assert binary_review([0], [0.1]).figures()["smiling"]["hardest_group"] is None


# Label errors


def planted(num_classes, n=1200, share=0.05, seed=0):
    """True classes, probabilities of a fair model, and labels of which some are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(
        num_classes, n, p=np.arange(num_classes, 0, -1) / sum(range(num_classes + 1))
    )
    scores = rng.normal(size=(n, num_classes))
    scores[np.arange(n), truth] += 5
    probs = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    is_wrong = rng.random(n) < share
    labels = np.where(is_wrong, (truth + 1) % num_classes, truth)
    return labels, probs, is_wrong


@pytest.mark.parametrize("a", [SMILING, EMOTION, AGE], ids=lambda a: str(a.kind))
def test_planted_label_errors_are_found(a):
    labels, probs, is_wrong = planted(a.num_values)
    labels[:50] = -1
    is_wrong[:50] = False
    given = probs[:, 1] if a is SMILING else probs
    found = review(
        scored([a], labels[:, None]), answers({a.name: given}), {}, split="test", num_shown=2000
    ).attributes[0]
    faces = np.asarray([f.face for f in found.label_errors])
    assert found.num_label_errors == len(faces)
    assert is_wrong[faces].mean() > 0.85
    assert is_wrong[faces].sum() > 0.75 * is_wrong.sum()
    known = np.flatnonzero(labels >= 0)
    confidence = get_self_confidence_for_each_label(labels[known], probs[known])
    order = np.argsort(confidence[np.isin(known, faces)], kind="stable")
    assert faces.tolist() == known[np.isin(known, faces)][order].tolist()


def test_label_errors_are_those_of_cleanlab_that_the_model_answers_otherwise():
    labels, probs, _ = planted(2)
    expected = find_label_issues(labels, probs, filter_by="confident_learning", n_jobs=1)
    answer = probs.argmax(1)
    np.testing.assert_array_equal(likely_label_errors(labels, probs, answer), expected)
    assert expected.sum() > 20
    strict = (probs[:, 1] >= 0.99).astype(int)  # a high threshold: no is the answer more often
    agreeing = likely_label_errors(labels, probs, strict)
    assert not (agreeing & (strict == labels)).any()
    np.testing.assert_array_equal(agreeing, expected & (strict != labels))


@pytest.mark.parametrize(
    "labels",
    [[], [-1, -1], [1, 1, 1], [0, -1, 0], [0, 1], [3, 0, 0, 0], [0, 1, 2, 5]],
    ids=str,
)
def test_rare_and_missing_classes_do_not_disturb(labels):
    """No warning, which would be an error here, and no label error where the model agrees."""
    targets = np.asarray(labels, np.int64)
    probs = np.full((len(labels), 8), 0.02)
    probs[np.arange(len(labels)), targets] = 0.86
    assert not likely_label_errors(targets, probs, targets).any()


def test_one_face_of_a_class_may_be_a_label_error():
    targets = np.asarray([0] * 20 + [3])
    probs = np.full((21, 8), 0.02)
    probs[:, 0] = 0.86
    assert np.flatnonzero(likely_label_errors(targets, probs, probs.argmax(1))).tolist() == [20]


def test_of_training_data_the_review_warns():
    assert binary_review([0, 1], [0.1, 0.9], split="train").caution == CAUTION
    assert binary_review([0, 1], [0.1, 0.9], split="valid").caution == ""


# The order of labelling again


def test_priorities_by_hand():
    targets = np.asarray([0, 1, -1, -1, 0])
    probs = np.asarray([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5], [0.1, 0.9], [0.3, 0.7]])
    errors = np.asarray([False, False, False, False, True])
    assert priorities(targets, probs, errors) == pytest.approx([0.05, 0.4, 0.25, 0.05, 0.85])


def test_a_label_error_comes_before_any_doubt():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet([1, 1], 500)
    targets = rng.integers(-1, 2, 500)
    errors = (targets >= 0) & (probs.argmax(1) != targets) & (rng.random(500) < 0.5)
    values = priorities(targets, probs, errors)
    assert values[errors].min() > values[~errors].max()
    assert ((values >= 0) & (values <= 1)).all()


def test_faces_are_ordered_by_their_most_urgent_attribute_and_ties_by_the_data_set():
    targets = np.asarray([[1, 0], [1, -1], [0, 0], [1, 0], [1, 0]])
    probs = {"smiling": [0.9, 0.9, 0.6, 0.9, 0.2], "wearing_hat": [0.1, 0.45, 0.1, 0.1, 0.1]}
    queue = review(
        scored([SMILING, HAT], targets), answers(probs), {}, split="test", num_queued=4
    ).queue
    expected = np.zeros((5, 2))
    for column, a in enumerate((SMILING, HAT)):
        p = np.asarray(probs[a.name])
        both = np.stack([1 - p, p], 1)
        error = likely_label_errors(targets[:, column], both, (p >= 0.5).astype(int))
        expected[:, column] = priorities(targets[:, column], both, error)
    order = sorted(range(5), key=lambda i: (-expected[i].max(), i))
    assert queue.faces.tolist() == order[:4]
    assert order[-2:] == [0, 3]  # equally urgent
    np.testing.assert_allclose(queue.priorities, expected[order[:4]], atol=1e-6)
    assert queue.image_uris == tuple(f"file:///{i}.png" for i in order[:4])


def test_reasons_name_what_is_urgent():
    targets = np.asarray([[1, -1]] * 2 + [[1, 0]] * 10 + [[0, 1]] * 10)
    smiling, hat = np.where(targets.T == 1, 0.9, 0.1)
    smiling[0], hat[0] = 0.1, 0.55
    queue = review(
        scored([SMILING, HAT], targets),
        answers({"smiling": smiling, "wearing_hat": hat}),
        {},
        split="test",
    ).queue
    first = queue.faces.tolist().index(0)
    assert queue.reason(first) == (
        "smiling: labelled true, model says false 0.90, likely label error"
    )
    last = queue.faces.tolist().index(21)
    assert queue.reason(last) == "smiling: labelled false, model says false 0.90"
    hat[1] = 0.5
    queue = review(
        scored([SMILING, HAT], targets),
        answers({"smiling": smiling, "wearing_hat": hat}),
        {},
        split="test",
    ).queue
    second = queue.faces.tolist().index(1)
    assert queue.reason(second) == "wearing_hat: no label, model says true 0.50"


# The loop


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "relabel.csv").open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def save_rows(folder: Path, rows, **options) -> None:
    with (folder / "relabel.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]), **options)
        table.writeheader()
        table.writerows(rows)


def by_uri(split: DatasetSplit) -> dict[str, Sample]:
    return {sample.image_uri: sample for sample in split.samples}


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("faces")
    synthetic.write(folder, 60, seed=5, image_px=32)
    return str(folder)


@pytest.fixture
def drawn(faces_dir):
    """The splits of a data set of drawn faces, by name."""
    return {s: read_dataset(f"synthetic:{faces_dir}", s) for s in ("train", "valid", "test")}


def made_up_queue(split: DatasetSplit, attributes, num_queued=1000):
    """A queue of probabilities that are right of four faces of five, and sure of it."""
    targets = np.asarray([[s.targets.get(a.name, -1) for a in attributes] for s in split.samples])
    probs = {}
    for i, a in enumerate(attributes):
        said = np.where(np.arange(len(targets)) % 5 == i % 5, targets[:, i] + 1, targets[:, i])
        full = np.full((len(targets), a.num_values), 0.1 / (a.num_values - 1))
        full[np.arange(len(targets)), said % a.num_values] = 0.9
        probs[a.name] = full[:, 1] if a.kind is Kind.BINARY else full
    scores = scored(attributes, targets, uris=[s.image_uri for s in split.samples])
    return review(scores, answers(probs), {}, split=split.split, num_queued=num_queued).queue


def test_nothing_changes_where_nothing_was_corrected(drawn, tmp_path):
    train = drawn["train"]
    queue = made_up_queue(train, (SMILING, HAT), num_queued=20)
    others = [drawn["valid"], drawn["test"]]
    assert write_relabel(str(tmp_path / "relabel"), queue, train, others) == 20
    for name, split in drawn.items():
        again = read_dataset(f"table:{tmp_path / 'relabel'}", name)
        assert by_uri(again) == by_uri(split)
        assert len(again.samples) == len(split.samples)
        assert again.problems == ()
        assert again.attributes == split.attributes
        assert (again.licence, again.research_only) == (split.licence, split.research_only)
    reviewed = [s.image_uri for s in read_dataset(f"table:{tmp_path / 'relabel'}", "train").samples]
    assert tuple(reviewed[:20]) == queue.image_uris


def test_corrected_cells_become_labels(drawn, tmp_path):
    """A label turned round, one given where there was none, one taken away; the rest as it was."""
    train, folder = drawn["train"], tmp_path / "relabel"
    queue = made_up_queue(train, (SMILING, attribute("black_hair")))
    write_relabel(str(folder), queue, train, [drawn["valid"]])
    rows = read_rows(folder)
    assert [row["rank"] for row in rows] == [str(i + 1) for i in range(len(train.samples))]
    expected = {uri: dict(sample.targets) for uri, sample in by_uri(train).items()}
    turned, emptied = rows[0], rows[1]
    given = next(row for row in rows[2:] if not row["label:black_hair"])
    turned["label:smiling"] = "false" if turned["label:smiling"] == "true" else "true"
    expected[turned["image"]]["smiling"] ^= 1
    emptied["label:smiling"] = ""
    del expected[emptied["image"]]["smiling"]
    given["label:black_hair"] = "TRUE"  # as a spreadsheet spells it
    expected[given["image"]]["black_hair"] = 1
    rows[3]["reason"] = "looked at, \u00e4hnlich"
    save_rows(folder, rows, quoting=csv.QUOTE_ALL)
    again = read_dataset(f"table:{folder}", "train")
    assert again.problems == ()
    assert {s.image_uri: s.targets for s in again.samples} == expected
    assert {s.image_uri: s.groups for s in again.samples} == {
        s.image_uri: s.groups for s in train.samples
    }
    assert by_uri(read_dataset(f"table:{folder}", "valid")) == by_uri(drawn["valid"])
    with Image.open(io.BytesIO(read_image(again.samples[0].image_uri))) as image:
        assert image.size == (32, 32)


def test_a_row_says_what_was_labelled_and_what_the_model_says(drawn, tmp_path):
    train = drawn["train"]
    queue = made_up_queue(train, (SMILING, attribute("black_hair")))
    write_relabel(str(tmp_path), queue, train, [])
    samples = by_uri(train)
    for i, row in enumerate(read_rows(tmp_path)):
        sample = samples[row["image"]]
        for column, a in enumerate(queue.attributes):
            target = sample.targets.get(a.name)
            word = "" if target is None else a.value_names[target]
            assert row[f"given:{a.name}"] == row[f"label:{a.name}"] == word
            assert row[f"model:{a.name}"] == a.value_names[queue.predicted[i, column]]
            assert row[f"prob:{a.name}"] == "0.900"
        assert (row["split"], row["reason"]) == ("train", queue.reason(i))
        assert row["group:head"] == sample.groups["head"]
        assert row["label:bald"] == ("true" if sample.targets["bald"] else "false")
        assert "model:bald" not in row


def test_a_word_that_is_none_is_a_problem_of_its_line(drawn, tmp_path):
    test = drawn["test"]
    write_relabel(str(tmp_path), made_up_queue(test, (SMILING,)), test, [])
    rows = read_rows(tmp_path)
    rows[2]["label:smiling"] = "yes"
    save_rows(tmp_path, rows)
    again = read_dataset(f"table:{tmp_path}", "test")
    assert len(again.samples) == len(test.samples) - 1
    (problem,) = again.problems
    assert problem.endswith("relabel.csv, line 4: label:smiling 'yes' is none of false, true")


def test_images_beyond_those_scored_stay(drawn, tmp_path):
    train = drawn["train"]
    first = DatasetSplit(
        name=train.name,
        split="train",
        attributes=train.attributes,
        samples=train.samples[:10],
        licence=train.licence,
        research_only=False,
    )
    queue = made_up_queue(first, (SMILING,))
    write_relabel(str(tmp_path), queue, train, [drawn["valid"]])
    assert by_uri(read_dataset(f"table:{tmp_path}", "train")) == by_uri(train)
    assert len(read_rows(tmp_path)) == 10


def test_without_other_splits_the_reader_cuts_valid_from_train(drawn, tmp_path):
    """Stated where ``others`` is described; of another split, all stays as it is."""
    for name in ("train", "test"):
        queue = made_up_queue(drawn[name], (SMILING,))
        write_relabel(str(tmp_path / name), queue, drawn[name], [])
    parts = [read_dataset(f"table:{tmp_path / 'train'}", s) for s in ("train", "valid")]
    assert by_uri(parts[0]) | by_uri(parts[1]) == by_uri(drawn["train"])
    test = read_dataset(f"table:{tmp_path / 'test'}", "test")
    assert by_uri(test) == by_uri(drawn["test"])
    with pytest.raises(UsageError, match="split 'train' holds no image"):
        read_dataset(f"table:{tmp_path / 'test'}", "train")


ODD = DatasetSplit(
    name="table",
    split="valid",
    attributes=(MASK, YEARS, AGE, SMILING),
    samples=(
        Sample("s3://bucket/a b.jpg", {"face_mask": 2, "years": 0, "age": 1}, {'ra"ce': "x, y"}),
        Sample("file:///x/%23%25.png", {"years": 1, "age": 2, "smiling": 1}, {"rank": "3"}),
        Sample("file:///x/p.parquet#row=12&column=image", {"face_mask": 0, "smiling": 0}, {}),
        Sample("s3://bucket/p.parquet#row=0&column=a%26b", {"face_mask": 1, "age": 8}, {}),
    ),
    licence='"ours" \\ only\nfor \u00fcse \U0001f600 \x7f',
    research_only=True,
)


@pytest.mark.parametrize("num_queued", [2, 4], ids=["some", "all"])
def test_declared_attributes_uris_and_words_survive(tmp_path, num_queued):
    queue = made_up_queue(ODD, (AGE, MASK, YEARS), num_queued)
    write_relabel(str(tmp_path), queue, ODD, [])
    again = read_dataset(f"table:{tmp_path}", "valid")
    assert again.problems == ()
    assert by_uri(again) == by_uri(ODD)
    assert again.attributes == ODD.attributes
    assert (again.licence, again.research_only) == (ODD.licence, True)
    assert (tmp_path / "unchanged.parquet").exists() == (num_queued < 4)


def test_ages_are_written_so_that_no_spreadsheet_takes_them_for_a_day(tmp_path):
    write_relabel(str(tmp_path), made_up_queue(ODD, (AGE,)), ODD, [])
    rows = {row["image"]: row for row in read_rows(tmp_path)}
    first = rows["s3://bucket/a b.jpg"]
    assert (first["label:age"], first["label:years"]) == ("3-9 years", "3-9 years")
    first["label:age"] = "20-29 years"
    rows["file:///x/%23%25.png"]["label:age"] = "30-39"
    save_rows(tmp_path, list(rows.values()))
    found = by_uri(read_dataset(f"table:{tmp_path}", "valid"))
    assert [found[uri].targets["age"] for uri in list(rows) if "age" in found[uri].targets] == [
        {"s3://bucket/a b.jpg": 3, "file:///x/%23%25.png": 4}.get(uri, 8)
        for uri in rows
        if "age" in found[uri].targets
    ]


def test_the_folder_may_be_in_a_bucket(s3_bucket, drawn):
    test = drawn["test"]
    write_relabel(f"{s3_bucket}/relabel", made_up_queue(test, (SMILING,), 3), test, [])
    assert by_uri(read_dataset(f"table:{s3_bucket}/relabel", "test")) == by_uri(test)


def test_parts_of_many_rows_are_one_table(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(reviewing, "ROWS_AT_ONCE", 7)
    train = drawn["train"]
    write_relabel(str(tmp_path), made_up_queue(train, (SMILING,), 5), train, [drawn["valid"]])
    assert pq.read_metadata(tmp_path / "unchanged.parquet").num_rows == len(train.samples) + 1
    assert by_uri(read_dataset(f"table:{tmp_path}", "train")) == by_uri(train)


def test_a_queue_of_other_images_is_refused(drawn, tmp_path):
    queue = made_up_queue(drawn["test"], (SMILING,))
    with pytest.raises(ValueError, match="other images"):
        write_relabel(str(tmp_path), queue, drawn["train"], [])
    assert not list(tmp_path.iterdir())


def test_the_mapping_file_says_what_to_do(drawn, tmp_path):
    test = drawn["test"]
    write_relabel(str(tmp_path), made_up_queue(test, (SMILING,)), test, [])
    text = (tmp_path / "fattr.toml").read_text(encoding="utf-8")
    assert text.startswith("# Correct the label: columns of relabel.csv; an empty cell is no label")
    mapping = tomllib.loads(text)
    assert mapping["labels"]["smiling"] == {"column": "label:smiling"}
    assert mapping["groups"] == {"head": "group:head", "skin_tone": "group:skin_tone"}
    assert mapping["licence"] == synthetic.LICENCE
    assert storage.exists(str(tmp_path / "relabel.csv"))
