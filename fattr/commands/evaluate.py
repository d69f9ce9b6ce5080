"""``jobs/evaluate.py``: a model and a labelled data set in; figures, a report and a verdict out."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich import box
from rich.console import Console
from rich.table import Table

from fattr import bundle as bundles
from fattr import storage
from fattr.attributes import Attribute
from fattr.build import (
    ScorePlan,
    build_classifier,
    build_detector,
    cpu_count,
    resolve_device,
)
from fattr.bundle import CARD, FIGURES, Bundle
from fattr.commands.evaluate_review import write_review
from fattr.commands.score_data import choose_engine, refuse_problems, score, shared_attributes
from fattr.config import EvaluateConfig
from fattr.datasets import DatasetSplit, read_dataset
from fattr.datasets.groups import with_groups
from fattr.detect import source as detectors
from fattr.detect.source import DetectorSource
from fattr.errors import UsageError
from fattr.evaluation.figures import answers_of, evaluation
from fattr.evaluation.requirements import Requirement, all_met, check, judge, lines, parse
from fattr.evaluation.robustness import evenly_spread, robustness_figures
from fattr.evaluation.scores import Scores
from fattr.metrics.attribute import Metrics
from fattr.metrics.by_group import OK, group_members
from fattr.metrics.cautions import cautions
from fattr.metrics.compare import Answers, compare
from fattr.outputs import local_folder, refuse_used_output
from fattr.progress import track
from fattr.report.evaluation.markdown import evaluation_markdown
from fattr.report.evaluation.page import evaluation_page
from fattr.report.metrics_table import metrics_table
from fattr.report.model_card import SHOWN_METRICS, card_figures, model_card, shown
from fattr.report.robustness_plots import robustness_png
from fattr.runs.record import new_run_id, versions, write_json
from fattr.stages import Model

log = logging.getLogger(__name__)

EXIT_MISSED = 1  # a bar of --require

_OF_RUN = (
    "run_id",
    "model",
    "model_id",
    "data",
    "split",
    "engine",
    "command",
    "seconds",
    "versions",
    "num_images",
    "macro",
    "requirements",
)

# Flags that change a figure, given in the command of metrics.json where they are not the default.
_FLAGS = (
    "groups",
    "min_group",
    "crops",
    "min_face_px",
    "robustness",
    "robustness_images",
    "limit",
    "detect_size",
    "score_threshold",
    "nms_iou_threshold",
)


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What was asked for, found and checked before any image is read."""

    config: EvaluateConfig
    bundle: Bundle
    other: Bundle | None  # to compare with
    split: DatasetSplit  # as far as --limit goes
    whole: DatasetSplit
    attributes: tuple[Attribute, ...]  # that the bundle predicts and the data set labels
    source: DetectorSource | None  # None: the pictures are crops already
    requirements: tuple[Requirement, ...]

    @property
    def compared(self) -> tuple[Attribute, ...]:
        """The attributes that both models predict."""
        theirs = self.other.spec.attributes if self.other else ()
        return tuple(a for a in self.attributes if a in theirs)


def check_request(config: EvaluateConfig) -> Request:
    """The request with all that it names.

    Raises:
        UsageError: something named does not exist, or does not fit together.
    """
    requirements = parse(config.require)
    bundle = bundles.find(config.model)
    other = bundles.find(config.against) if config.against else None
    split = read_dataset(config.data, config.split)
    refuse_problems(split)
    if config.group_table:
        split = with_groups(split, config.group_table)
    whole, split = split, dataclasses.replace(split, samples=split.samples[: config.limit])
    refuse_unknown_groups(config.group_names, split)
    attributes = shared_attributes(bundle, split)
    check(
        requirements,
        attributes,
        groups=bool(config.group_names),
        against=other is not None,
        detection=config.crops == "detect",
    )
    source = detectors.find(config.detector) if config.crops == "detect" else None
    request = Request(config, bundle, other, split, whole, attributes, source, requirements)
    if other and not request.compared:
        names = ", ".join(a.name for a in attributes)
        raise UsageError(f"--against {config.against}: it predicts none of {names}")
    return request


def refuse_unknown_groups(names: Sequence[str], split: DatasetSplit) -> None:
    """Refuse a group column that no sample has.

    Raises:
        UsageError: naming the columns there are.
    """
    known = sorted({column for sample in split.samples for column in sample.groups})
    if unknown := [name for name in names if name not in known]:
        there = f"has the group columns {', '.join(known)}" if known else "has no group columns"
        raise UsageError(
            f"--groups {unknown[0]}: data set {split.name} {there}; or bring one with --group-table"
        )


def command_of(request: Request) -> str:
    """What to run for the same figures, without this machine's paths."""
    config, source = request.config, request.source
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in _FLAGS}
    if source:
        values["detector"] = source.name
    if config.group_table:
        values["group_table"] = Path(config.group_table).name
    if request.other:
        values["against"] = request.other.spec.name
    changed = "".join(
        f" --{name.replace('_', '-')}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in values.items()
        if value != defaults[name]
    )
    return (
        f"python jobs/evaluate.py --model {request.bundle.spec.name} "
        f"--data {request.split.name}:DIR --split {config.split}{changed} --output DIR"
    )


def describe(request: Request) -> dict[str, Any]:
    """What was measured on what, without paths."""
    config, bundle, split, source = (
        request.config,
        request.bundle,
        request.split,
        request.source,
    )
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
    return {
        "schema_version": 2,
        "model": bundle.spec.name,
        "model_id": bundle.model_id,
        "data": split.name,
        "split": split.split,
        "crops": config.crops,
        "engine": choose_engine(config.engine, len(split.samples)),
        "detector": detector,
        "licence": {"model": bundle.spec.licence, "data": split.licence},
        "research_only": bundle.spec.research_only or split.research_only,
        "calibration": bundle.spec.training.get("calibration"),
        "cautions": cautions(bundle.spec.training, split.name, split.split),
        "command": command_of(request),
    }


def score_models(request: Request, folder: Path) -> list[Scores]:
    """The scores of the model, and of the one to compare with if there is one."""
    config = request.config
    models = [(request.bundle, request.attributes)]
    if request.other:
        models.append((request.other, request.compared))
    plan = ScorePlan(
        config, request.source, tuple(b for b, _ in models), resolve_device(config.device)
    )
    return score(
        plan,
        request.split,
        [attributes for _, attributes in models],
        engine=choose_engine(config.engine, len(request.split.samples)),
        folder=folder,
    )


def measure(request: Request, scores: Sequence[Scores]) -> dict[str, Any]:
    """The figures of ``metrics.json``: of all labelled faces.

    Raises:
        UsageError: a labelled image cannot be decoded.
        StorageError: a labelled image cannot be read.
    """
    config, own = request.config, scores[0]
    groups = {name: own.groups(name) for name in config.group_names}

    def shown(items: Iterator[Attribute]) -> Iterator[Attribute]:
        return track(items, what="measuring", total=len(request.attributes))

    figures = evaluation(
        own,
        request.bundle.spec.calibration,
        groups=groups,
        looked_for=request.source is not None,
        min_face_px=config.min_face_px,
        min_group=config.min_group,
        progress=shown,
    )
    if request.other:
        candidate, other = answers(request.bundle, own), answers(request.other, scores[1])
        members = group_members(groups)
        figures["against"] = compare(request.compared, own.targets, candidate, other, members)
    if config.robustness and request.source:
        figures["robustness"] = measure_robustness(request, request.source)
    return figures


def answers(bundle: Bundle, scores: Scores) -> Answers:
    """What a bundle says of the faces."""
    spec = bundle.spec
    return answers_of(scores, spec.calibration, model=spec.name, model_id=bundle.model_id)


def measure_robustness(request: Request, source: DetectorSource) -> dict[str, Any]:
    """Figures of a part of the split, with pictures that get worse and worse."""
    config, bundle = request.config, request.bundle
    device = resolve_device(config.device)
    model = Model(
        build_classifier(bundle, device=device),
        bundle.spec.crop_rule,
        bundle.spec.calibration,
        request.attributes,
    )
    samples = evenly_spread(request.split.samples, config.robustness_images)
    return robustness_figures(
        samples,
        model,
        build_detector(source, config, device=device),
        min_face_px=config.min_face_px,
        groups=config.group_names,
        num_threads=cpu_count(),
        progress=lambda items: track(items, what="robustness", total=len(samples)),
    )


def evaluate(config: EvaluateConfig) -> int:
    """Run the job; 0 when all is written, 1 when moreover a bar of ``--require`` was missed.

    Raises:
        UsageError: the request is wrong; nothing was written.
        StorageError: a labelled image cannot be read, or the output not be written.
        RunError: the storage or the engine failed.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = local_folder(config.output)
    refuse_used_output(output)
    storage.check_writable(output.as_uri())
    request = check_request(config)
    bundle = request.bundle
    if config.card:
        storage.check_writable(bundle.folder.absolute().as_uri())
    if bundle.spec.research_only:
        log.warning("model %s is for research only: %s", bundle.spec.name, bundle.spec.licence)
    with tempfile.TemporaryDirectory(prefix="fattr-scores-") as spill:
        scores = score_models(request, Path(spill))
        metrics = describe(request) | measure(request, scores)
        for caution in metrics["cautions"]:
            log.warning("%s", caution)
        output.mkdir(parents=True, exist_ok=True)
        if config.review:
            metrics["mistakes"] = write_review(
                config, bundle, request.whole, request.source, scores[0], output
            )
        if config.keep_scores:
            scores[0].write(output / "scores.parquet")
    if request.requirements:
        metrics["requirements"] = judge(request.requirements, metrics)
    metrics["run_id"] = new_run_id(started)
    metrics["seconds"] = round(time.monotonic() - clock, 1)
    metrics["versions"] = versions()
    if config.card:
        update_card(bundle, metrics)
    code = 0 if all_met(metrics.get("requirements", [])) else EXIT_MISSED
    write_outputs(output, metrics, started, code)
    show(metrics, Console())
    return code


def write_outputs(
    output: Path, metrics: Mapping[str, Any], started: datetime, exit_code: int
) -> None:
    """The figures as JSON, Parquet and pages; ``run.json``, and last of all ``_SUCCESS``."""
    write_json(output.as_uri() + "/metrics.json", metrics)
    pq.write_table(metrics_table(metrics), output / "metrics.parquet", compression="zstd")
    if "robustness" in metrics:
        (output / "robustness.png").write_bytes(robustness_png(metrics["robustness"]))
    (output / "report.html").write_text(evaluation_page(metrics), encoding="utf-8")
    (output / "report.md").write_text(evaluation_markdown(metrics), encoding="utf-8")
    run = {name: value for name, value in metrics.items() if name in _OF_RUN}
    run |= {"job": "evaluate", "started": started.isoformat(), "exit_code": exit_code}
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
    for line in _said(metrics):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def _said(metrics: Mapping[str, Any]) -> Iterator[str]:
    yield from _group_lines(metrics["attributes"])
    if against := metrics.get("against"):
        yield against["summary"]
    means = metrics["macro"]
    yield (
        f"{metrics['model']} on {metrics['data']} {metrics['split']}, "
        f"{metrics['num_images']} images: macro accuracy {shown(means['accuracy'])}, "
        f"macro balanced accuracy {shown(means['balanced_accuracy'])}, "
        f"macro F1 {shown(means['f1'])}, macro AP {shown(means['average_precision'])}, "
        f"macro ECE {shown(means.get('ece'))}, "
        f"detection recall {shown(metrics['detection_recall'])}"
    )
    yield from lines(metrics.get("requirements", []))


def _group_lines(by_name: Mapping[str, Metrics]) -> Iterator[str]:
    for name, row in by_name.items():
        for column, values in row.get("by_group", {}).items():
            if "*" not in column:
                cells = [f"{v} {_cell(m)} (n {m['n']})" for v, m in values.items()]
                yield f"{name} by {column}: {', '.join(cells)}"


def _cell(metrics: Metrics) -> str:
    return shown(metrics["accuracy"]) if metrics["status"] == OK else metrics["status"]
