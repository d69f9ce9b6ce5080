"""``jobs/evaluate.py``: a model and a labelled data set in, ``metrics.json`` out."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fattr import bundle as bundles
from fattr import storage
from fattr.attributes import Attribute
from fattr.build import build_classifier, build_detector, cpu_count, resolve_device
from fattr.bundle import CARD, FIGURES, Bundle
from fattr.config import EvaluateConfig
from fattr.datasets import DatasetSplit, read_dataset
from fattr.detect import source as detectors
from fattr.detect.source import DetectorSource
from fattr.errors import UsageError
from fattr.labelled_crops import LabelledCrops, labelled_crops
from fattr.metrics.attribute import Metrics, attribute_metrics, macro
from fattr.metrics.by_group import by_group
from fattr.outputs import refuse_used_output
from fattr.progress import track
from fattr.records import FloatArray, UInt8Array
from fattr.report.model_card import SHOWN_METRICS, card_figures, model_card, shown
from fattr.runinfo import new_run_id, versions, write_json

log = logging.getLogger(__name__)

# Flags that change a figure, given in the command of metrics.json where they are not the default.
_FLAGS = (
    "groups",
    "crops",
    "min_face_px",
    "limit",
    "detect_size",
    "score_threshold",
    "nms_iou_threshold",
)


def shared_attributes(bundle: Bundle, split: DatasetSplit) -> tuple[Attribute, ...]:
    """What the bundle predicts and the data set labels, in the bundle's order.

    Raises:
        UsageError: there is no such attribute.
    """
    classes = {a.name: a.classes for a in split.attributes}
    predicted = bundle.spec.attributes
    shared = tuple(a for a in predicted if classes.get(a.name) == a.classes)
    if not shared:
        raise UsageError(
            f"model {bundle.spec.name} predicts nothing that data set {split.name} labels "
            f"({', '.join(classes)}): choose another --data"
        )
    return shared


def refuse_unknown_groups(names: Sequence[str], split: DatasetSplit) -> None:
    """Refuse a group column that no sample has.

    Raises:
        UsageError: naming the columns there are.
    """
    known = sorted({column for sample in split.samples for column in sample.groups})
    if unknown := [name for name in names if name not in known]:
        raise UsageError(
            f"--groups {unknown[0]}: data set {split.name} has the group columns {', '.join(known)}"
        )


def refuse_problems(split: DatasetSplit) -> None:
    """Refuse a split of which a part cannot be used: its figures would be those of the rest.

    Raises:
        UsageError: naming the first problem.
    """
    if split.problems:
        raise UsageError(
            f"data set {split.name}: {len(split.problems)} rows or folders cannot be used;"
            f" mend or remove them, the first: {split.problems[0]}"
        )


def cut_crops(
    config: EvaluateConfig,
    bundle: Bundle,
    attributes: Sequence[Attribute],
    split: DatasetSplit,
    source: DetectorSource | None,
) -> LabelledCrops:
    """The split's faces by the bundle's crop rule; without a detector, whole pictures."""
    device = resolve_device(config.device)
    samples = split.samples[: config.limit]

    def progress(items: Iterator[tuple[UInt8Array, float]]) -> Iterator[tuple[UInt8Array, float]]:
        return track(items, what=f"cropping {split.split}", total=len(samples))

    return labelled_crops(
        samples,
        attributes,
        bundle.spec.crop_rule,
        detector=build_detector(source, config, device=device) if source else None,
        num_threads=cpu_count(),
        progress=progress,
    )


def attribute_figures(
    bundle: Bundle,
    attributes: Sequence[Attribute],
    faces: LabelledCrops,
    probs: Mapping[str, FloatArray],
    groups: Sequence[str],
) -> dict[str, Metrics]:
    """Metrics of each attribute at the bundle's thresholds, and by the group columns asked for."""
    columns = {name: faces.groups[name] for name in groups}
    figures = {}
    for i, attribute in enumerate(attributes):
        targets, own = faces.targets[:, i], probs[attribute.name]
        threshold = bundle.spec.calibration.thresholds.get(attribute.name, 0.5)
        metrics = attribute_metrics(attribute, targets, own, threshold)
        if columns:
            metrics["by_group"] = by_group(attribute, targets, own, threshold, columns)
        figures[attribute.name] = metrics
    return figures


def detection_figures(
    faces: LabelledCrops, source: DetectorSource | None, *, min_face_px: float
) -> dict[str, Any]:
    """Share of pictures with a face found, and of found faces that annotate would not label.

    Null where no face was looked for; the second also where none was found.
    """
    found_px = faces.face_px[faces.found]
    return {
        "detection_recall": float(faces.found.mean()) if source else None,
        "min_face_px": min_face_px,
        "gated_frac": float((found_px < min_face_px).mean()) if len(found_px) else None,
    }


def command_of(config: EvaluateConfig, model: str, data: str, detector: str | None) -> str:
    """What to run for the same figures, without this machine's paths."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in _FLAGS}
    if detector:
        values["detector"] = detector
    changed = "".join(
        f" --{name.replace('_', '-')} {value}"
        for name, value in values.items()
        if value != defaults[name]
    )
    return (
        f"python jobs/evaluate.py --model {model} --data {data}:DIR --split {config.split}"
        f"{changed} --output DIR"
    )


def measure(
    config: EvaluateConfig, bundle: Bundle, split: DatasetSplit, source: DetectorSource | None
) -> dict[str, Any]:
    """The figures of ``metrics.json``: of all labelled faces, gate and abstention ignored.

    Raises:
        UsageError: model and data set share no attribute, or a labelled image cannot be decoded.
        StorageError: a labelled image cannot be read.
    """
    attributes = shared_attributes(bundle, split)
    faces = cut_crops(config, bundle, attributes, split, source)
    classifier = build_classifier(
        bundle, device=resolve_device(config.device), num_threads=cpu_count()
    )
    probs = classifier.predict_proba(faces.crops)
    by_name = attribute_figures(bundle, attributes, faces, probs, config.group_names)
    means = macro(by_name, attributes)
    return {
        "num_images": len(faces),
        **detection_figures(faces, source, min_face_px=config.min_face_px),
        "num_macro_attributes": means["num_attributes"]["accuracy"],
        "macro": means,
        "attributes": by_name,
    }


def describe(
    config: EvaluateConfig, bundle: Bundle, split: DatasetSplit, source: DetectorSource | None
) -> dict[str, Any]:
    """What was measured on what, without paths."""
    detector = (
        {
            "name": source.name,
            "sha256": source.sha256,
            "detect_size": config.detect_size,
            "score_threshold": config.score_threshold,
        }
        if source
        else None
    )
    command = command_of(config, bundle.spec.name, split.name, source.name if source else None)
    return {
        "model": bundle.spec.name,
        "model_id": bundle.model_id,
        "data": split.name,
        "split": split.split,
        "crops": config.crops,
        "detector": detector,
        "licence": {"model": bundle.spec.licence, "data": split.licence},
        "research_only": bundle.spec.research_only or split.research_only,
        "command": command,
    }


def evaluate(config: EvaluateConfig) -> int:
    """Run the job; 0 when ``metrics.json`` is written.

    Raises:
        UsageError: the request is wrong; nothing was written.
        StorageError: a labelled image cannot be read, or the output not be written.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = Path(config.output).absolute()
    refuse_used_output(output)
    storage.check_writable(output.as_uri())
    bundle = bundles.find(config.model)
    if config.card:
        storage.check_writable(bundle.folder.absolute().as_uri())
    split = read_dataset(config.data, config.split)
    refuse_problems(split)
    refuse_unknown_groups(config.group_names, split)
    source = detectors.find(config.detector) if config.crops == "detect" else None
    if bundle.spec.research_only:
        log.warning("model %s is for research only: %s", bundle.spec.name, bundle.spec.licence)
    described = describe(config, bundle, split, source)
    measured = measure(config, bundle, split, source)
    run = {
        "run_id": new_run_id(started),
        "seconds": round(time.monotonic() - clock, 1),
        "versions": versions(),
    }
    metrics = described | run | measured
    if config.card:
        update_card(bundle, metrics)
    _write(output, metrics, started)
    show(metrics, Console())
    return 0


def _write(output: Path, metrics: Mapping[str, Any], started: datetime) -> None:
    output.mkdir(parents=True, exist_ok=True)
    write_json(output.as_uri() + "/metrics.json", metrics)
    run = {name: value for name, value in metrics.items() if name != "attributes"}
    run |= {"job": "evaluate", "started": started.isoformat(), "exit_code": 0}
    write_json(output.as_uri() + "/run.json", run)
    (output / "_SUCCESS").write_bytes(b"")


def update_card(bundle: Bundle, metrics: Mapping[str, Any]) -> None:
    """Put the figures beside what the bundle's card holds already, in place of older ones."""
    title = f"{metrics['data']}, {metrics['split']}"
    if metrics["crops"] == "dataset":
        title += ", the data set's own crops"
    figures = {**bundle.figures(), title: card_figures(metrics)}
    folder = bundle.folder.absolute().as_uri()
    write_json(f"{folder}/{FIGURES}", figures)
    card = model_card(bundle.spec, bundle.model_id, figures=figures)
    storage.write_bytes(f"{folder}/{CARD}", card.encode())


def show(metrics: Mapping[str, Any], console: Console) -> None:
    """The figures as a table, and a line for each attribute and group column; no intersections."""
    table = Table("attribute", box=box.SIMPLE)
    columns = ("n", *SHOWN_METRICS)
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for name, row in metrics["attributes"].items():
        table.add_row(name, str(row["n"]), *(shown(row.get(column)) for column in columns[1:]))
    console.print(table)
    for line in _group_lines(metrics["attributes"]):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    means = metrics["macro"]
    console.print(
        f"{metrics['model']} on {metrics['data']} {metrics['split']}, "
        f"{metrics['num_images']} images: macro accuracy {shown(means['accuracy'])}, "
        f"macro balanced accuracy {shown(means['balanced_accuracy'])}, "
        f"macro F1 {shown(means['f1'])}, macro AP {shown(means['average_precision'])}, "
        f"detection recall {shown(metrics['detection_recall'])}",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def _group_lines(by_name: Mapping[str, Metrics]) -> Iterator[str]:
    for name, row in by_name.items():
        for column, values in row.get("by_group", {}).items():
            if "*" not in column:
                cells = [f"{v} {shown(m['accuracy'])} (n {m['n']})" for v, m in values.items()]
                yield f"{name} by {column}: {', '.join(cells)}"
