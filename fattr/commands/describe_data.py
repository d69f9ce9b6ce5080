"""``fattr describe-data``: a labelled data set in, its card out."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fattr import storage, tables
from fattr.attributes import VOCABULARY, Attribute, Kind
from fattr.build import cpu_count
from fattr.config import DescribeDataConfig
from fattr.datasets import SPLITS, DatasetSplit, read_dataset
from fattr.datasets.check import ImageFacts, check_images, digest, problems, repeats
from fattr.errors import UsageError
from fattr.labelled_crops import targets_of
from fattr.metrics.labels import angular_order, cell_counts, phi_matrix, prevalence
from fattr.outputs import local_folder, refuse_used_output
from fattr.records import Status
from fattr.report.data_card import data_card
from fattr.report.data_plots import (
    coverage_plot,
    facts_plot,
    phi_plot,
    shares_plot,
    sizes_plot,
    words,
)
from fattr.runs.record import new_run_id, versions, write_json

ELSEWHERE = re.compile(r"file:///(?:[^\s/]+/)*([^\s/]+)")  # a file outside the data set's folder

log = logging.getLogger(__name__)

CARD = "DATA_CARD.md"
THIN_BELOW = 30  # images: fewer tell a share of a half to no better than +-0.17
NUM_SIZES = 3
MAX_COVERAGE_COLUMNS, MAX_COVERAGE_VALUES = 3, 20
QUANTILES = {"p05": 5, "p25": 25, "p50": 50, "p75": 75, "p95": 95}
PICTURE_FACTS = ("brightness", "contrast", "sharpness")

Facts = Mapping[str, ImageFacts]


def read_splits(spec: str, limit: int | None) -> tuple[list[DatasetSplit], dict[str, str]]:
    """The splits that are there, and why the others are not, by name.

    Raises:
        UsageError: none is there.
    """
    found, absent = [], {}
    for name in SPLITS:
        try:
            split = read_dataset(spec, name)
        except UsageError as err:
            absent[name] = str(err)
        else:
            found.append(dataclasses.replace(split, samples=split.samples[:limit]))
    if not found:
        raise UsageError(next(iter(absent.values())))
    return found, absent


def split_figures(splits: Sequence[DatasetSplit], facts: Facts) -> dict[str, Any]:
    """Counts of each split: images by status, copies, bytes."""
    copies = repeats(splits, facts)
    return {
        split.split: {
            "images": len(split.samples),
            "status": dict(Counter(one.status for one in facts_of(split, facts))),
            "copies": copies[split.split],
            "size_bytes": sum(one.size_bytes or 0 for one in facts_of(split, facts)),
        }
        for split in splits
    }


def facts_of(split: DatasetSplit, facts: Facts) -> list[ImageFacts]:
    """Facts of the split's images, in their order."""
    return [facts[sample.image_uri] for sample in split.samples]


def label_figures(splits: Sequence[DatasetSplit]) -> dict[str, Any]:
    """How often each attribute's classes are labelled in each split."""
    return {
        a.name: {
            "kind": str(a.kind),
            "description": a.description,
            "sensitive": a.sensitive,
            "splits": {s.split: prevalence(a, targets_of(s.samples, [a])[:, 0]) for s in splits},
        }
        for a in attributes_of(splits)
    }


def attributes_of(splits: Sequence[DatasetSplit]) -> list[Attribute]:
    """What any of the splits may label, each once."""
    return list({a.name: a for split in splits for a in split.attributes}.values())


def phi_figures(splits: Sequence[DatasetSplit]) -> dict[str, Any]:
    """Phi of each pair of attributes with two values, alike ones side by side."""
    two = [a for a in attributes_of(splits) if a.num_values == 2]
    samples = [sample for split in splits for sample in split.samples]
    phi = phi_matrix(targets_of(samples, two))
    order = angular_order(phi)
    rows = phi[np.ix_(order, order)].tolist()
    return {
        "labels": [two[i].classes[1] if two[i].classes else two[i].name for i in order],
        "values": [[None if math.isnan(value) else value for value in row] for row in rows],
    }


# Coverage


def coverage_columns(splits: Sequence[DatasetSplit]) -> dict[str, dict[str, list[str]]]:
    """Column -> split -> value of each image, "" where unknown.

    Group columns as annotated, and labels with several classes that are no group column.
    """
    groups = [name for split in splits for sample in split.samples for name in sample.groups]
    classes = [a for a in attributes_of(splits) if a.kind is not Kind.BINARY]
    columns = {
        name: {s.split: [sample.groups.get(name, "") for sample in s.samples] for s in splits}
        for name in dict.fromkeys(groups)
    }
    labelled = {
        a.name: {s.split: _class_names(a, targets_of(s.samples, [a])[:, 0]) for s in splits}
        for a in classes
    }
    return labelled | columns


def _class_names(attribute: Attribute, targets: NDArray[np.int64]) -> list[str]:
    return [attribute.classes[target] if target >= 0 else "" for target in targets]


def ordered_values(name: str, column: Mapping[str, Sequence[str]]) -> list[str]:
    """The values that occur, but for "": all classes in their order where it is an attribute."""
    seen = {value for own in column.values() for value in own} - {""}
    classes = VOCABULARY[name].classes if name in VOCABULARY else ()
    return list(classes) if seen <= set(classes) else sorted(seen)


def coverage_figures(splits: Sequence[DatasetSplit]) -> dict[str, Any]:
    """Images in each combination of up to three columns, that with the fewest values first."""
    columns = coverage_columns(splits)
    values = {name: ordered_values(name, column) for name, column in columns.items()}
    usable = [name for name, own in values.items() if 2 <= len(own) <= MAX_COVERAGE_VALUES]
    chosen = sorted(usable[:MAX_COVERAGE_COLUMNS], key=lambda name: len(values[name]))
    counts = {
        split.split: cell_counts({name: columns[name][split.split] for name in chosen}, values)
        for split in splits
        if chosen
    }
    return {
        "columns": {name: values[name] for name in chosen},
        "left_out": [name for name in columns if name not in chosen],
        "thin_below": THIN_BELOW,
        "splits": {split: own.tolist() for split, own in counts.items()},
    }


# Pictures


def usable_facts(splits: Sequence[DatasetSplit], facts: Facts) -> dict[str, list[ImageFacts]]:
    """Facts of the decoded images of each split that has any."""
    usable = {
        split.split: [one for one in facts_of(split, facts) if one.status == Status.OK]
        for split in splits
    }
    return {split: own for split, own in usable.items() if own}


def column_of(own: Sequence[ImageFacts], name: str) -> NDArray[np.float64]:
    """One fact of all these images."""
    return np.array([getattr(one, name) for one in own], np.float64)


def fact_figures(usable: Mapping[str, Sequence[ImageFacts]]) -> dict[str, Any]:
    """Quantiles of what was measured of the pictures, by split."""

    def quantiles(values: NDArray[np.float64]) -> dict[str, float]:
        found = np.percentile(values, list(QUANTILES.values())).tolist()
        return dict(zip(QUANTILES, found, strict=True))

    return {
        split: {
            name: quantiles(column_of(own, name)) for name in ("width", "height", *PICTURE_FACTS)
        }
        for split, own in usable.items()
    }


def sizes_of(usable: Mapping[str, Sequence[ImageFacts]]) -> dict[str, Counter[tuple[int, int]]]:
    """How many images have each (width, height), by split."""
    return {
        split: Counter((one.width or 0, one.height or 0) for one in own)
        for split, own in usable.items()
    }


def size_figures(usable: Mapping[str, Sequence[ImageFacts]]) -> dict[str, Any]:
    """How many sizes there are, and the most frequent ones, by split."""
    return {
        split: {
            "distinct": len(sizes),
            "most_frequent": [
                {"width": width, "height": height, "images": images}
                for (width, height), images in sizes.most_common(NUM_SIZES)
            ],
        }
        for split, sizes in sizes_of(usable).items()
    }


def label_plots(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, bytes]:
    """Prevalence of yes, most frequent first, and of the classes of what is no yes or no."""
    rows = {name: class_rows(one) for name, one in attributes.items()}
    classes = {words(name): own for name, own in rows.items() if "true" not in own}
    binary = {name: own["true"] for name, own in rows.items() if "true" in own}
    plots = {}
    if binary:
        first = next(iter(next(iter(binary.values()))))
        names = sorted(binary, key=lambda name: -(binary[name][first]["share"] or 0))
        sorted_rows = {words(name): binary[name] for name in names}
        plots["prevalence.png"] = shares_plot({"": sorted_rows}, title="How often a label is yes")
    if classes:
        plots["classes.png"] = shares_plot(classes, title="How often each class is given")
    return plots


def class_rows(figures: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Class -> split -> its share."""
    splits = figures["splits"]
    return {
        value: {split: own["classes"][value] for split, own in splits.items()}
        for value in next(iter(splits.values()))["classes"]
    }


def picture_plots(usable: Mapping[str, Sequence[ImageFacts]]) -> dict[str, bytes]:
    """What the pictures look like; their sizes only where they differ."""
    if not usable:
        return {}
    facts = {s: {name: column_of(own, name) for name in PICTURE_FACTS} for s, own in usable.items()}
    plots = {"facts.png": facts_plot(facts)}
    sizes = sizes_of(usable)
    if len(set().union(*sizes.values())) > 1:
        plots["sizes.png"] = sizes_plot(sizes)
    return plots


def draw(data: Mapping[str, Any], usable: Mapping[str, Sequence[ImageFacts]]) -> dict[str, bytes]:
    """The pictures of the card by name; those that would show nothing are left out."""
    plots = label_plots(data["attributes"]) | picture_plots(usable)
    phi, coverage = data["phi"], data["coverage"]
    if len(phi["labels"]) > 1:
        plots["phi.png"] = phi_plot(phi["labels"], np.array(phi["values"], np.float64))
    if coverage["columns"]:
        counts = {split: np.array(cells) for split, cells in coverage["splits"].items()}
        plots["coverage.png"] = coverage_plot(counts, coverage["columns"], thin_below=THIN_BELOW)
    return plots


# The job


def command_of(config: DescribeDataConfig, name: str) -> str:
    """What to run for the same card, without this machine's paths."""
    limit = f" --limit {config.limit}" if config.limit else ""
    return f"fattr describe-data --data {name}:DIR{limit} --output DIR"


def without_root(text: str, config: DescribeDataConfig) -> str:
    """The text with the data set's files named from its folder on."""
    root = storage.canonical_uri(config.data.partition(":")[2]).rstrip("/")
    if root.endswith(".toml"):
        root = root.rpartition("/")[0]
    return ELSEWHERE.sub(r".../\1", text.replace(f"{root}/", ""))


def describe(
    config: DescribeDataConfig, splits: Sequence[DatasetSplit], facts: Facts
) -> dict[str, Any]:
    """All the figures of ``data.json``, without this machine's paths."""
    first, usable = splits[0], usable_facts(splits, facts)
    return {
        "data": first.name,
        "licence": first.licence,
        "research_only": first.research_only,
        "command": command_of(config, first.name),
        "splits": split_figures(splits, facts),
        "problems": [
            {"kind": one.kind, "text": without_root(one.text, config)}
            for one in problems(splits, facts)
        ],
        "attributes": label_figures(splits),
        "phi": phi_figures(splits),
        "coverage": coverage_figures(splits),
        "facts": fact_figures(usable),
        "sizes": size_figures(usable),
    }


def facts_table(splits: Sequence[DatasetSplit], facts: Facts) -> pa.Table:
    """One row an image and split, in the order of the splits."""
    rows = [
        {"split": split.split, **dataclasses.asdict(one)}
        for split in splits
        for one in facts_of(split, facts)
    ]
    return pa.Table.from_pylist(rows, schema=tables.FACTS)


def describe_data(config: DescribeDataConfig) -> int:
    """Run the job; 0 when the card is written, whatever it says.

    Raises:
        UsageError: the request is wrong; nothing was written.
        StorageError: an image cannot be read for now, or the output not be written.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = local_folder(config.output)
    refuse_used_output(output)
    storage.check_writable(output.as_uri())
    splits, absent = read_splits(config.data, config.limit)
    facts = check_images(splits, num_threads=cpu_count())
    data = describe(config, splits, facts)
    data["absent_splits"] = {name: without_root(why, config) for name, why in absent.items()}
    data |= {"made": f"{started:%Y-%m-%d}", "run_id": new_run_id(started), "versions": versions()}
    plots = draw(data, usable_facts(splits, facts))
    data["seconds"] = round(time.monotonic() - clock, 1)
    _write(output, data, plots, facts_table(splits, facts))
    for line in digest(problems(splits, facts)):
        log.warning(line)
    log.info("%d images; card in %s", len(facts), output / CARD)
    return 0


def _write(
    output: Path, data: Mapping[str, Any], plots: Mapping[str, bytes], facts: pa.Table
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(facts, sink)
    files = {"facts.parquet": sink.getvalue().to_pybytes(), **plots}
    files[CARD] = data_card(data, list(plots)).encode()
    for name, content in files.items():
        storage.write_bytes(f"{output.as_uri()}/{name}", content)
    write_json(f"{output.as_uri()}/data.json", data)
    (output / "_SUCCESS").write_bytes(b"")
