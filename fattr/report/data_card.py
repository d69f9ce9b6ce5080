"""The card of a data set, after Gebru et al., Datasheets for Datasets (2021): figures, no faces."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fattr.datasets.check import CONFLICT, LABEL, LEAK, LISTED_TWICE
from fattr.records import Status
from fattr.report.data_plots import words
from fattr.report.markdown import table

MAX_PROBLEMS = 25  # of a kind
NUM_PAIRS = 12
FACT_UNITS = {"width": "width, px", "height": "height, px"}

PROBLEMS = {
    LABEL: "Rows that were refused",
    Status.MISSING: "Images that are missing",
    Status.DENIED: "Images that may not be read",
    Status.UNREADABLE: "Images that cannot be decoded",
    Status.TOO_LARGE: "Images of too many pixels",
    LISTED_TWICE: "Images that a split lists more than once",
    CONFLICT: "Copies of a picture with different labels",
    LEAK: "Images that are also in another split",
}

INTRO = """\
Labels are what annotators saw in pictures. A group that is rare here will be labelled worse by what
is trained on it, and measured less surely."""


def data_card(data: Mapping[str, Any], plots: Sequence[str]) -> str:
    """Markdown of a ``data.json``; ``plots`` are the names of the pictures beside it."""
    restriction = "**Research only.** " if data["research_only"] else ""
    lines = [
        f"# Data card: {data['data']}\n",
        f"`{data['command']}`, {data['made']}\n",
        f"Licence: {restriction}{data['licence']}\n",
        f"{INTRO}\n",
        "## Images\n",
        *_splits(data["splits"]),
        *(f"\nNo split {name}: {why}" for name, why in data["absent_splits"].items()),
        "\n## Problems\n",
        *_problems(data["problems"]),
        "\n## Labels\n",
        *_labels(data["attributes"], plots),
        *_pairs(data["phi"], plots),
        *_coverage(data["coverage"], plots),
        "\n## Pictures\n",
        *_pictures(data, plots),
    ]
    return "\n".join(lines) + "\n"


def _picture(name: str, plots: Sequence[str], alt: str) -> Iterator[str]:
    if name in plots:
        yield f"\n![{alt}]({name})"


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    header = ["split", "images", "usable", "not usable", "copies within the split", "MB"]
    rows = [
        [
            name,
            str(one["images"]),
            str(one["status"].get("ok", 0)),
            ", ".join(f"{n} {status}" for status, n in one["status"].items() if status != "ok")
            or "0",
            str(one["copies"]),
            f"{one['size_bytes'] / 1e6:.1f}",
        ]
        for name, one in splits.items()
    ]
    yield from table(header, rows)


def _problems(problems: Sequence[Mapping[str, str]]) -> Iterator[str]:
    if not problems:
        yield "None: every image is there and can be decoded, no row was refused, no picture is in"
        yield "two splits or listed twice, and no two copies are labelled differently."
        return
    yield "Training refuses rows with labels it does not know and images it cannot use. It leaves"
    yield "out the pictures of a split that are also in one that measures it."
    for kind, heading in PROBLEMS.items():
        texts = [problem["text"] for problem in problems if problem["kind"] == kind]
        if texts:
            yield f"\n{heading}: {len(texts)}\n"
            yield from (f"- {text}" for text in texts[:MAX_PROBLEMS])
        if (more := len(texts) - MAX_PROBLEMS) > 0:
            yield f"- and {more} more, in `data.json`"


# Labels


def _labels(attributes: Mapping[str, Mapping[str, Any]], plots: Sequence[str]) -> Iterator[str]:
    yield from _missing(attributes)
    yield from _picture("prevalence.png", plots, "share of yes by attribute and split")
    yield from _picture("classes.png", plots, "share of each class by split")
    splits = list(next(iter(attributes.values()))["splits"])
    yield "\nShare of the labelled images, in %, with its 95 % Wilson interval:\n"
    yield from table(["label", *splits], list(_prevalence_rows(attributes)))
    if sensitive := [name for name, one in attributes.items() if one["sensitive"]]:
        yield f"\nSensitive: {', '.join(f'`{name}`' for name in sensitive)}."


def _missing(attributes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    missing = {
        name: {split: own["missing"] for split, own in one["splits"].items()}
        for name, one in attributes.items()
    }
    rows = [[name, *map(str, own.values())] for name, own in missing.items() if any(own.values())]
    if not rows:
        yield f"Attributes: {len(attributes)}; no label is missing."
        return
    yield f"Attributes: {len(attributes)}. Images without a label, by split:\n"
    yield from table(["attribute", *next(iter(missing.values()))], rows)


def _prevalence_rows(attributes: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    for name, one in attributes.items():
        splits = one["splits"].values()
        for value in next(iter(splits))["classes"]:
            label = f"`{name}`" if value == "true" else f"`{name}` = {value}"
            yield [label, *(_share(own["classes"][value]) for own in splits)]


def _share(one: Mapping[str, Any]) -> str:
    if one["share"] is None:
        return "-"
    return f"{100 * one['share']:.1f} ({100 * one['low']:.1f}-{100 * one['high']:.1f})"


def _pairs(phi: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    """The most related pairs of labels."""
    names, values = phi["labels"], phi["values"]
    pairs = [
        (values[i][j], names[j], names[i])
        for i in range(len(names))
        for j in range(i)
        if values[i][j] is not None
    ]
    if not pairs:
        return
    yield "\n### Labels that go together\n"
    yield "A model may learn one of a pair from the other. Phi is the correlation of two yes/no"
    yield "labels, over the images of all splits that have both."
    yield from _picture("phi.png", plots, "phi coefficients of pairs of labels")
    best = sorted(pairs, key=lambda pair: -abs(pair[0]))[:NUM_PAIRS]
    yield ""
    yield from table(["pair", "phi"], [[f"{a}, {b}", f"{value:+.2f}"] for value, a, b in best])


# Coverage


def _coverage(coverage: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    columns, thin_below = coverage["columns"], coverage["thin_below"]
    if not columns:
        return
    names = ", ".join(map(words, columns))
    yield "\n## Coverage\n"
    yield f"Images by {names}, as annotated."
    yield f"A cell of fewer than {thin_below} images is thin, bold here and hatched in the picture:"
    yield "too few to learn from or to measure on."
    yield from _picture("coverage.png", plots, f"images by {names}")
    for split, cells in coverage["splits"].items():
        counts = np.asarray(cells)
        thin, empty = int((counts < thin_below).sum()), int((counts == 0).sum())
        yield f"\n{split}: {thin} of {counts.size} cells are thin, {empty} empty.\n"
        yield from _cross_table(columns, counts, thin_below)
    if left_out := coverage["left_out"]:
        yield f"\nWithout {', '.join(map(words, left_out))}."


def _cross_table(
    columns: Mapping[str, Sequence[str]], counts: NDArray[np.int64], thin_below: int
) -> Iterator[str]:
    """A row a combination of all columns but the last, and sums over the last."""
    *outer, last = columns.values()
    titles = [", ".join(values) for values in itertools.product(*outer)]

    def cell(count: int) -> str:
        return f"**{count}**" if count < thin_below else str(count)

    rows = [
        [title or "images", *(cell(count) for count in own), cell(sum(own))]
        for title, own in zip(titles, counts.reshape(len(titles), -1).tolist(), strict=True)
    ]
    heading = " by ".join([", ".join(map(words, list(columns)[:-1])), words(list(columns)[-1])])
    yield from table([heading.removeprefix(" by "), *last, "all"], rows)


# Files


def _pictures(data: Mapping[str, Any], plots: Sequence[str]) -> Iterator[str]:
    if not data["facts"]:
        yield "No image could be decoded."
        return
    yield from _facts(data["facts"], plots)
    yield from _sizes(data["sizes"], plots)


def _facts(facts: Mapping[str, Mapping[str, Any]], plots: Sequence[str]) -> Iterator[str]:
    """Quantiles of what was measured of the pictures."""
    yield "On the grey picture scaled to a long side of 128 pixels, brightness is the mean luma,"
    yield "contrast its standard deviation, sharpness the variance of its Laplacian (low: blurred)."
    yield from _picture("facts.png", plots, "brightness, contrast and sharpness by split")
    yield "\nMedian (5 % to 95 %):\n"
    names = list(next(iter(facts.values())))
    rows = [
        [split, *("{p50:.4g} ({p05:.4g}-{p95:.4g})".format(**own[name]) for name in names)]
        for split, own in facts.items()
    ]
    yield from table(["split", *(FACT_UNITS.get(name, name) for name in names)], rows)


def _sizes(sizes: Mapping[str, Mapping[str, Any]], plots: Sequence[str]) -> Iterator[str]:
    yield from _picture("sizes.png", plots, "widths and heights by split")
    yield "\nSizes:\n"
    rows = [
        [
            split,
            str(own["distinct"]),
            ", ".join(
                "{width} x {height} ({images})".format(**one) for one in own["most_frequent"]
            ),
        ]
        for split, own in sizes.items()
    ]
    yield from table(["split", "different", "most frequent, pixels (images)"], rows)
