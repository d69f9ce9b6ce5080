"""A search's trials as a table to read, one to query, and the best as settings to train with."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fattr.tuning.space import Value
from fattr.tuning.trials import State, Trial


def ranked(trials: Sequence[Trial], metric: str) -> list[Trial]:
    """Best first, then those without a score; last those that failed, whatever they reached."""
    sign = 1 if metric == "loss" else -1

    def key(trial: Trial) -> tuple[bool, bool, float, int]:
        best, failed = trial.best(metric), trial.state == State.FAILED
        return failed, best is None, sign * best[0] if best else 0.0, trial.number

    return sorted(trials, key=key)


def best_of(trials: Sequence[Trial], metric: str) -> Trial | None:
    """The trial with the best epoch of all that did not fail; None where none has a score."""
    first = ranked(trials, metric)[0]
    return first if first.history and first.state != State.FAILED else None


def results_table(trials: Sequence[Trial], metric: str) -> str:
    """A line for each trial, best first: how far it got, and its best score with the epoch."""
    names = list(trials[0].settings)
    rows = [["trial", "state", "epochs_done", f"valid_{metric}", "at", *names]]
    for trial in ranked(trials, metric):
        best = trial.best(metric)
        score, at = (f"{best[0]:.4f}", str(best[1])) if best else ("", "")
        settings = [str(trial.settings[name]) for name in names]
        rows.append([trial.name, str(trial.state), str(trial.epochs), score, at, *settings])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    reasons = [f"{trial.name} failed: {trial.reason}" for trial in trials if trial.reason]
    return "\n".join(line.rstrip() for line in [*lines, *reasons])


def results_parquet(trials: Sequence[Trial], metric: str) -> bytes:
    """``trials.parquet``: one row a trial, in order of their numbers.

    ``trial, state, reason, epochs_done, score, best_epoch, scores`` (after each epoch),
    ``seconds``, and a column for each setting.
    """
    best = [trial.best(metric) for trial in trials]
    columns: dict[str, Any] = {
        "trial": pa.array([t.number for t in trials], pa.int32()),
        "state": pa.array([str(t.state) for t in trials]),
        "reason": pa.array([t.reason for t in trials]),
        "epochs_done": pa.array([t.epochs for t in trials], pa.int32()),
        "score": pa.array([b[0] if b else None for b in best], pa.float64()),
        "best_epoch": pa.array([b[1] if b else None for b in best], pa.int32()),
        "scores": pa.array([t.scores(metric) for t in trials], pa.list_(pa.float64())),
        "seconds": pa.array([_seconds(t) for t in trials], pa.float64()),
    }
    columns |= {name: [t.settings[name] for t in trials] for name in trials[0].settings}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _seconds(trial: Trial) -> float:
    return sum(row.get("seconds", 0.0) for row in trial.history)


def points(trials: Sequence[Trial], name: str, metric: str) -> list[tuple[Value, float, str]]:
    """What a setting was, the best score, and the state, of each trial that has a score."""
    return [
        (trial.settings[name], best[0], str(trial.state))
        for trial in trials
        if (best := trial.best(metric))
    ]
