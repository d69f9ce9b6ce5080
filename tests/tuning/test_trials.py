"""What is known of a search on disk and in S3, and what its results say."""

import dataclasses
import io
import json

import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.errors import UsageError
from fattr.tuning.results import best_of, ranked, results_parquet, results_table
from fattr.tuning.space_file import searchable
from fattr.tuning.trials import State, Trial, begin_search, check_search, read_trial, write_trial


def row(epoch, score, loss=1.0):
    return {"epoch": float(epoch), "valid_score": score, "valid_loss": loss, "seconds": 2.0}


def trial(number, *scores, state=State.FINISHED, losses=None, reason=""):
    losses = losses or [1.0] * len(scores)
    rows = [row(e, s, x) for e, (s, x) in enumerate(zip(scores, losses, strict=True), start=1)]
    settings = {"backbone": "tiny", "learning_rate": 10.0**-number}
    return Trial(number=number, settings=settings, state=state, history=tuple(rows), reason=reason)


TRIALS = [
    trial(0, 0.5, 0.7, 0.6),
    trial(1, 0.4, state=State.STOPPED),
    trial(2, state=State.FAILED, reason="the loss became NaN"),
    trial(3, 0.6, 0.9),
]


@pytest.fixture(params=["disk", "s3"])
def output(request, tmp_path):
    if request.param == "disk":
        return tmp_path.as_uri()
    return request.getfixturevalue("s3_bucket") + "/search"


@pytest.mark.parametrize("known", TRIALS, ids=lambda t: str(t.state) + t.name)
def test_a_trial_reads_back(known, output):
    fresh = Trial(number=known.number, settings=known.settings)
    assert read_trial(output, fresh) == fresh
    write_trial(output, known)
    assert read_trial(output, fresh) == known


def test_a_trial_of_other_settings_or_no_trial_is_refused(tmp_path):
    output = tmp_path.as_uri()
    write_trial(output, TRIALS[0])
    other = dataclasses.replace(TRIALS[0], settings={"backbone": "resnet18", "learning_rate": 1.0})
    with pytest.raises(UsageError, match="choose another --output"):
        read_trial(output, other)
    for text in ('{"number": 0}', "[]", "{"):
        (tmp_path / "trials/000/trial.json").write_text(text)
        with pytest.raises(UsageError, match=r"trials/000/trial.json"):
            read_trial(output, TRIALS[0])


def test_an_epoch_that_is_run_again_replaces_what_came_after():
    known = trial(0, 0.1, 0.2, 0.3, state=State.RUNNING)
    again = known.with_epoch(row(2, 0.25) | {"valid_accuracy/smiling": 0.5})
    assert again.scores("score") == [0.1, 0.25]
    assert again.epochs == 2
    assert not any("/" in name for name in again.history[-1])


def test_another_search_is_refused_and_says_what_differs(output):
    request = {
        "preset": "tiny",
        "data": ("synthetic:d",),
        "space learning_rate": {"uniform": [0, 1]},
    }
    begin_search(output, request)
    begin_search(output, dict(reversed(request.items())))
    other = request | {"preset": "celeba40", "space dropout": {"choice": [0.0, 0.1]}}
    with pytest.raises(UsageError) as caught:
        begin_search(output, other)
    assert "preset was tiny, is celeba40" in str(caught.value)
    assert "space dropout was None, is {'choice': [0.0, 0.1]}" in str(caught.value)
    assert "data" not in str(caught.value)
    assert json.loads(storage.read_bytes(storage.join(output, "search.json")))["preset"] == "tiny"


def test_other_images_make_another_search_once_they_are_known(output):
    request = {"preset": "tiny"}
    begin_search(output, request | {"used": [["drawn", "train", 3, "ab"]]})
    assert check_search(output, request)
    with pytest.raises(UsageError, match=r"\(used was .*'ab'.*, is .*'cd'"):
        begin_search(output, request | {"used": [["drawn", "train", 3, "cd"]]})


def test_the_best_epoch_of_all_trials_wins():
    assert best_of(TRIALS, "score").number == 3
    assert [t.number for t in ranked(TRIALS, "score")] == [3, 0, 1, 2]
    assert best_of([TRIALS[2]], "score") is None
    low = [trial(0, 0.9, 0.9, losses=[0.5, 0.3]), trial(1, 0.9, 0.9, losses=[0.2, 0.4])]
    assert best_of(low, "loss").best("loss") == (0.2, 1)


@pytest.mark.parametrize("metric", ["score", "loss"])
def test_a_trial_that_failed_is_never_the_best(metric):
    soared = trial(0, 0.9, losses=[0.01], state=State.FAILED, reason="the loss became NaN")
    fair = trial(1, 0.4, state=State.STOPPED)
    assert best_of([soared, fair], metric) == fair
    assert best_of([soared, trial(2)], metric) is None
    assert [t.number for t in ranked([soared, TRIALS[2], fair], metric)] == [1, 0, 2]


def test_no_setting_is_called_as_a_column_of_every_search_is():
    settings = dict.fromkeys(searchable(), 7)
    known = dataclasses.replace(trial(0, 0.5, 0.7), settings=settings)
    (one,) = pq.read_table(io.BytesIO(results_parquet([known], "score"))).to_pylist()
    assert settings.items() <= one.items()
    assert (one["epochs"], one["epochs_done"]) == (7, 2)
    assert len(one) == len(settings) + 8


def test_the_table_says_how_far_each_got():
    lines = results_table(TRIALS, "score").splitlines()
    assert lines[0].split() == [
        "trial", "state", "epochs_done", "valid_score", "at", "backbone", "learning_rate",
    ]  # fmt: skip
    assert lines[1].split() == ["003", "finished", "2", "0.9000", "2", "tiny", "0.001"]
    assert lines[3].split() == ["001", "stopped", "1", "0.4000", "1", "tiny", "0.1"]
    assert lines[4].split() == ["002", "failed", "0", "tiny", "0.01"]
    assert lines[5] == "002 failed: the loss became NaN"


def test_the_table_to_query_has_a_row_a_trial():
    rows = pq.read_table(io.BytesIO(results_parquet(TRIALS, "score"))).to_pylist()
    assert [one["trial"] for one in rows] == [0, 1, 2, 3]
    assert rows[0] == {
        "trial": 0,
        "state": "finished",
        "reason": "",
        "epochs_done": 3,
        "score": 0.7,
        "best_epoch": 2,
        "scores": [0.5, 0.7, 0.6],
        "seconds": 6.0,
        "backbone": "tiny",
        "learning_rate": 1.0,
    }
    assert (rows[2]["score"], rows[2]["best_epoch"], rows[2]["scores"]) == (None, None, [])
