"""What a model gets wrong, which labels are likely wrong, and what to label again first.

Reviewing reads scores and writes nothing. ``write_relabel`` writes what a reviewer corrects, as a
data set that ``fattr.datasets.table`` reads again:

    FOLDER/relabel.csv          the faces to look at, first one first; the ``label:`` cells count
    FOLDER/unchanged.parquet    all other images of the data set, with the labels they have
    FOLDER/fattr.toml           what the columns mean
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fattr import storage
from fattr.attributes import VOCABULARY, Attribute, Kind
from fattr.datasets import DatasetSplit
from fattr.datasets.mapping_file import FILE_NAME
from fattr.evaluation.scores import UNKNOWN, Scores
from fattr.metrics.by_group import MIN_N, Members
from fattr.metrics.compare import Answers
from fattr.metrics.intervals import wilson_interval
from fattr.records import Sample

NUM_SHOWN = 24  # faces of an attribute that are listed
NUM_QUEUED = 1000  # faces to look at again
CONFIDENT = 0.9  # a mistake at or above this probability is a confident one
MAX_REASONS, MIN_REASON = 3, 0.25  # of a face; the priority of a label as likely right as wrong

CAUTION = (
    "the model may have learned from these very labels: likely label errors are those it could not"
    " learn, and many more can hide; measure on a split it never saw, or by cross-validation"
)

RELABEL, UNCHANGED = "relabel.csv", "unchanged.parquet"
ROWS_AT_ONCE = 10_000

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Finding:
    """A face whose label the model contradicts; ``prob`` is that of the model's answer."""

    face: int  # row of the scores
    labelled: int
    predicted: int
    prob: float

    def caption(self, attribute: Attribute) -> tuple[str, str]:
        """Two lines: ``labelled false``, ``model says true 0.97``."""
        words = attribute.value_names
        said = f"model says {words[self.predicted]} {self.prob:.2f}"
        return f"labelled {words[self.labelled]}", said


@dataclass(frozen=True, slots=True)
class GroupErrors:
    """How often the model is wrong about one group; ``interval`` is Wilson's of 95 %."""

    column: str
    group: str
    n: int
    error_rate: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        rates = f"{self.error_rate:.3f} wrong ({low:.3f} to {high:.3f})"
        return f"{self.column} {self.group}: {rates}, n {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeReview:
    """What is wrong about one attribute over its labelled faces; lists are cut, counts are not.

    ``mistakes`` begin with the most probable wrong answer, ``label_errors`` with the least probable
    label, ``hardest_groups`` with the highest error rate; equal ones are in the faces' order.
    """

    attribute: Attribute
    n: int
    num_mistakes: int
    num_confident: int  # mistakes of CONFIDENT probability or more
    num_label_errors: int
    mistakes: tuple[Finding, ...]
    label_errors: tuple[Finding, ...]
    hardest_groups: tuple[GroupErrors, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Queue:
    """M faces to label again, most urgent first, and what is known of their A attributes."""

    attributes: tuple[Attribute, ...]
    faces: Ints  # (M,) rows of the scores
    image_uris: tuple[str, ...]
    targets: Ints  # (M, A), -1 where there is no label
    predicted: Ints  # (M, A)
    probs: Floats  # (M, A) of what is predicted
    priorities: Floats  # (M, A), see ``priorities``
    is_error: NDArray[np.bool_]  # (M, A) likely label errors

    def reason(self, row: int) -> str:
        """Why that face is here, the most urgent attribute first."""
        order = np.argsort(-self.priorities[row], kind="stable")[:MAX_REASONS]
        urgent = [i for i in order if self.priorities[row, i] >= MIN_REASON]
        return "; ".join(self._reason(row, i) for i in urgent or order[:1])

    def _reason(self, row: int, i: int) -> str:
        words = self.attributes[i].value_names
        target, answer = self.targets[row, i], words[self.predicted[row, i]]
        said, prob = f"{self.attributes[i].name}: ", self.probs[row, i]
        if target == UNKNOWN:
            return f"{said}no label, model says {answer} {prob:.2f}"
        error = ", likely label error" if self.is_error[row, i] else ""
        return f"{said}labelled {words[target]}, model says {answer} {prob:.2f}{error}"


@dataclass(frozen=True, slots=True, eq=False)
class Review:
    """Of each attribute what is wrong, and over all of them the faces to label again."""

    attributes: tuple[AttributeReview, ...]
    queue: Queue
    caution: str  # "" where the model cannot have learned from the labels

    def figures(self) -> dict[str, dict[str, Any]]:
        """``mistakes`` of metrics.json: counts, and the hardest group in words."""
        return {
            one.attribute.name: {
                "n_confident_mistakes": one.num_confident,
                "n_likely_label_errors": one.num_label_errors,
                "hardest_group": str(one.hardest_groups[0]) if one.hardest_groups else None,
            }
            for one in self.attributes
        }


# Reviewing


def review(
    scores: Scores,
    answers: Answers,
    members: Members,
    *,
    split: str,
    num_shown: int = NUM_SHOWN,
    num_queued: int = NUM_QUEUED,
) -> Review:
    """What to look at in N scored faces of ``split``.

    ``members`` says which faces are in which group (``by_group.group_members``). A face is as
    urgent as its most urgent attribute; of equals the first in the data set comes first. Attributes
    are gone through one at a time, so that memory does not grow with their number.
    """
    urgency = np.zeros(len(scores))
    reviews, errors = [], {}
    for a in scores.attributes:
        targets, class_probs = scores.targets(a), answers.class_probs(a)
        predicted = answers.predicted(a, class_probs)
        is_error = likely_label_errors(targets, class_probs, predicted)
        errors[a.name] = np.flatnonzero(is_error)
        np.maximum(urgency, priorities(targets, class_probs, is_error), out=urgency)
        reviews.append(
            _review_attribute(a, targets, class_probs, predicted, is_error, members, num_shown)
        )
    faces = np.argsort(-urgency, kind="stable")[:num_queued]
    queue = _queue(scores, answers, faces, errors)
    return Review(tuple(reviews), queue, CAUTION if split == "train" else "")


def likely_label_errors(targets: Ints, class_probs: Floats, predicted: Ints) -> NDArray[np.bool_]:
    """Which of N labels are likely wrong, by confident learning; False where there is none.

    One is where the model answers otherwise, and some other class is as probable as it is, on
    average, for the faces labelled so. ``class_probs`` (N, K) must be of a model that did not learn
    from these labels. With fewer than two classes labelled nothing can be said.
    Northcutt et al., JAIR 2021; https://doi.org/10.1613/jair.1.12125
    """
    is_error = np.zeros(len(targets), bool)
    known = targets != UNKNOWN
    if len(np.unique(targets[known])) < 2:
        return is_error
    from cleanlab.filter import find_label_issues  # two seconds, for this alone

    # The other filters of cleanlab warn where a class has one face or none.
    is_error[known] = find_label_issues(
        targets[known], class_probs[known], filter_by="confident_learning", n_jobs=1
    )
    is_error &= predicted != targets
    return is_error


def priorities(
    targets: Ints, class_probs: Floats, is_error: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """How urgent it is to look at each of N labels of an attribute, in [0, 1].

        (1 - p + e) / 2

    p is the probability of the label that there is (self-confidence) or, where there is none, of
    the most probable class (least confidence); e is 1 for a likely label error, else 0. So likely
    label errors come first, then labels that the model finds improbable and missing ones that it
    cannot decide, side by side by how probable it is that the label would be wrong.
    """
    assumed = np.where(targets == UNKNOWN, class_probs.argmax(1), targets)
    doubt = 1 - class_probs[np.arange(len(targets)), assumed].astype(np.float64)
    return (doubt.clip(0, 1) + is_error) / 2


def _review_attribute(
    attribute: Attribute,
    targets: Ints,
    class_probs: Floats,
    predicted: Ints,
    is_error: NDArray[np.bool_],
    members: Members,
    num_shown: int,
) -> AttributeReview:
    known = targets != UNKNOWN
    is_wrong = known & (predicted != targets)
    probs = class_probs[np.arange(len(known)), predicted]

    def findings(faces: Ints) -> tuple[Finding, ...]:
        return tuple(
            Finding(int(i), int(targets[i]), int(predicted[i]), float(probs[i]))
            for i in faces[:num_shown]
        )

    wrong, errors = np.flatnonzero(is_wrong), np.flatnonzero(is_error)
    given_probs = class_probs[errors, targets[errors]]
    return AttributeReview(
        attribute=attribute,
        n=int(known.sum()),
        num_mistakes=len(wrong),
        num_confident=int((probs[wrong] >= CONFIDENT).sum()),
        num_label_errors=len(errors),
        mistakes=findings(wrong[np.argsort(-probs[wrong], kind="stable")]),
        label_errors=findings(errors[np.argsort(given_probs, kind="stable")]),
        hardest_groups=tuple(_group_errors(known, is_wrong, members)),
    )


def _group_errors(
    known: NDArray[np.bool_], is_wrong: NDArray[np.bool_], members: Members
) -> list[GroupErrors]:
    """Of groups large enough, the highest error rate first."""
    found = []
    for column, groups in members.items():
        for group, faces in groups.items():
            n, num_wrong = int(known[faces].sum()), int(is_wrong[faces].sum())
            if n >= MIN_N:
                interval = wilson_interval(num_wrong, n)
                found.append(GroupErrors(column, group, n, num_wrong / n, interval))
    return sorted(found, key=lambda one: -one.error_rate)


def _queue(scores: Scores, answers: Answers, faces: Ints, errors: Mapping[str, Ints]) -> Queue:
    columns: dict[str, list[NDArray[Any]]] = {}
    rows = np.arange(len(faces))
    for a in scores.attributes:
        targets, class_probs = scores.targets(a)[faces], answers.class_probs(a)[faces]
        predicted = answers.predicted(a, class_probs)
        is_error = np.isin(faces, errors[a.name])
        for name, values in {
            "targets": targets,
            "predicted": predicted,
            "probs": class_probs[rows, predicted],
            "priorities": priorities(targets, class_probs, is_error),
            "is_error": is_error,
        }.items():
            columns.setdefault(name, []).append(values)
    uris = scores.image_uris
    return Queue(
        attributes=scores.attributes,
        faces=faces,
        image_uris=tuple(uris[i] for i in faces),
        **{name: np.stack(values, 1) for name, values in columns.items()},
    )


# Labelling again


def write_relabel(
    folder_uri: str, queue: Queue, split: DatasetSplit, others: Sequence[DatasetSplit]
) -> int:
    """Write the data set as one to correct, and return how many faces are to be looked at.

    ``split`` is what was scored, in that order; ``others`` are the data set's other splits, so that
    the table can stand in for all of it: without them a reader that finds no ``valid`` takes a
    tenth of ``train`` for it. A ``label:`` cell that is changed becomes the label, one that is
    emptied is no label. Splits, groups, licence and labels of other attributes stay.

    Raises:
        StorageError: the folder cannot be written.
    """
    chosen = [split.samples[i] for i in queue.faces]
    if tuple(sample.image_uri for sample in chosen) != queue.image_uris:
        raise ValueError("the queue is of other images than the split")
    queued = set(queue.faces.tolist())
    rest = [(split.split, s) for i, s in enumerate(split.samples) if i not in queued]
    rest += [(other.split, sample) for other in others for sample in other.samples]
    groups = sorted(
        {name for _, sample in rest for name in sample.groups}.union(
            *(sample.groups for sample in chosen)
        )
    )
    if rest:
        table = _plain_parquet(rest, split.attributes, groups)
        storage.write_bytes(storage.join(folder_uri, UNCHANGED), table)
    text = _reviewed_csv(queue, chosen, split, groups)
    storage.write_bytes(storage.join(folder_uri, RELABEL), text.encode("utf-8-sig"))  # for Excel
    mapping = "\n".join(_mapping_lines(split, groups)) + "\n"
    storage.write_bytes(storage.join(folder_uri, FILE_NAME), mapping.encode())
    return len(chosen)


def _word(attribute: Attribute, target: int | None) -> str:
    """A label's cell; of an age with a unit, since spreadsheets take 3-9 for a day."""
    if target is None or target == UNKNOWN:
        return ""
    word = attribute.value_names[target]
    return f"{word} years" if attribute.kind is Kind.AGE else word


def _plain_cells(
    split: str, sample: Sample, attributes: Sequence[Attribute], groups: Sequence[str]
) -> dict[str, str]:
    """What a reader takes from a row; the roles keep names of columns apart."""
    cells = {"image": sample.image_uri, "split": split}
    cells |= {f"label:{a.name}": _word(a, sample.targets.get(a.name)) for a in attributes}
    return cells | {f"group:{name}": sample.groups.get(name, "") for name in groups}


def _plain_parquet(
    rows: Sequence[tuple[str, Sample]], attributes: Sequence[Attribute], groups: Sequence[str]
) -> bytes:
    names = _plain_cells(*rows[0], attributes, groups)
    schema = pa.schema([(name, pa.string()) for name in names])
    file = pa.BufferOutputStream()
    with pq.ParquetWriter(file, schema) as writer:
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            cells = [_plain_cells(*row, attributes, groups) for row in part]
            writer.write_table(pa.Table.from_pylist(cells, schema))
    return bytes(file.getvalue().to_pybytes())


def _reviewed_csv(
    queue: Queue, chosen: Sequence[Sample], split: DatasetSplit, groups: Sequence[str]
) -> str:
    out = io.StringIO(newline="")
    rows = [
        {"rank": row + 1, "reason": queue.reason(row), "image": sample.image_uri}
        | _answer_cells(queue, row)
        | _plain_cells(split.split, sample, split.attributes, groups)
        for row, sample in enumerate(chosen)
    ]
    table = csv.DictWriter(out, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()


def _answer_cells(queue: Queue, row: int) -> dict[str, str]:
    """What the reviewer sees of each attribute, and the cell to correct behind it."""
    cells = {}
    for i, a in enumerate(queue.attributes):
        cells[f"given:{a.name}"] = _word(a, queue.targets[row, i])
        cells[f"model:{a.name}"] = _word(a, queue.predicted[row, i])
        cells[f"prob:{a.name}"] = f"{queue.probs[row, i]:.3f}"
        cells[f"label:{a.name}"] = ""
    return cells


def _mapping_lines(split: DatasetSplit, groups: Sequence[str]) -> Iterator[str]:
    yield f"# Correct the label: columns of {RELABEL}; an empty cell is no label."
    yield "# Spreadsheets: import all columns as text, save with commas, keep no copy in here."
    yield 'table = "."'
    yield 'image = "image"'
    yield 'split = "split"'
    yield f"licence = {_toml(split.licence)}"
    yield f"research_only = {_toml(split.research_only)}"
    for a in split.attributes:
        yield f"\n[labels.{_toml(a.name)}]"
        yield f"column = {_toml(f'label:{a.name}')}"
        if a.name not in VOCABULARY:
            yield from (f"{key} = {_toml(value)}" for key, value in _declaration(a).items())
        if a.kind is Kind.AGE:
            words = {_word(a, i): name for i, name in enumerate(a.classes)}
            words |= {name: name for name in a.classes}
            pairs = ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in words.items())
            yield f"values = {{ {pairs} }}"
    yield "\n[groups]"
    yield from (f"{_toml(name)} = {_toml(f'group:{name}')}" for name in groups)


def _declaration(attribute: Attribute) -> dict[str, Any]:
    """What a mapping file says of an attribute that the vocabulary lacks."""
    declared: dict[str, Any] = {
        "kind": str(attribute.kind),
        "description": attribute.description,
        "sensitive": attribute.sensitive,
        "classes": list(attribute.classes),
        "bin_edges": list(attribute.bin_edges),
        "mirrored": [attribute.classes[i] for i in attribute.mirrored],
    }
    return {key: value for key, value in declared.items() if value != []}


def _toml(value: object) -> str:
    """Text, a number, true, false or a list of them; JSON's text is TOML's but for DEL."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
