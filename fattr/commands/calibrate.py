"""``fattr calibrate``: a model and labelled faces in, the network with a new calibration out."""

from __future__ import annotations

import dataclasses
import logging
import shlex
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from fattr import bundle as bundles
from fattr import storage
from fattr.attributes import Attribute
from fattr.build import ScorePlan, resolve_device
from fattr.bundle import CARD, Bundle, BundleSpec
from fattr.classify.calibration import Calibration
from fattr.classify.fit_calibration import FITTED, MIN_PRECISION, UNREACHABLE, FitSettings
from fattr.commands.score_data import choose_engine, refuse_problems, score, shared_attributes
from fattr.config import CalibrateConfig
from fattr.datasets import DatasetSplit, read_dataset
from fattr.detect import source as detectors
from fattr.errors import UsageError
from fattr.evaluation.recalibrate import Report, mean_figures, recalibrate
from fattr.outputs import local_folder, refuse_used_output
from fattr.report.calibration_plot import calibration_png
from fattr.report.model_card import model_card, shown
from fattr.runs.record import new_run_id, versions, write_json

log = logging.getLogger(__name__)

# Flags that change the bundle, given in its command where they are not the default.
_FLAGS = (
    "split",
    "method",
    "objective",
    "min_precision",
    "coverage",
    "min_confidence",
    "crops",
    "name",
    "limit",
    "detector",
    "detect_size",
    "score_threshold",
    "nms_iou_threshold",
)


def fit_settings(config: CalibrateConfig) -> FitSettings:
    """What the flags say of the fit."""
    wanted = config.min_precision
    return FitSettings(
        method=config.method,
        objective=config.objective,
        min_precision=MIN_PRECISION if wanted is None else wanted,
        coverage=config.coverage,
        min_confidence=config.min_confidence,
    )


def read_splits(
    config: CalibrateConfig, bundle: Bundle
) -> list[tuple[DatasetSplit, tuple[Attribute, ...]]]:
    """The splits to fit on, each with the attributes that it is for.

    Raises:
        UsageError: a data set cannot be used, or two label the same attribute.
    """
    taken: dict[str, str] = {}
    found = []
    for spec in config.data:
        split = read_dataset(spec, config.split)
        refuse_problems(split)
        split = dataclasses.replace(split, samples=split.samples[: config.limit])
        attributes = shared_attributes(bundle, split)
        for a in attributes:
            if a.name in taken:
                raise UsageError(
                    f"--data {split.name} and {taken[a.name]} both label {a.name}: calibrate on one"
                )
            taken[a.name] = split.name
        found.append((split, attributes))
    return found


def fit_all(
    config: CalibrateConfig,
    bundle: Bundle,
    splits: Sequence[tuple[DatasetSplit, tuple[Attribute, ...]]],
) -> tuple[Calibration, Report]:
    """The new calibration and the report of all attributes.

    Raises:
        UsageError: an image is missing or damaged, or nothing can be fitted.
        RunError: the storage or the engine failed.
    """
    settings, fitted = fit_settings(config), bundle.spec.calibration
    source = detectors.find(config.detector) if config.crops == "detect" else None
    plan = ScorePlan(config, source, (bundle,), resolve_device(config.device))
    rows: Report = {}
    for split, attributes in splits:
        engine = choose_engine(config.engine, len(split.samples))
        with tempfile.TemporaryDirectory(prefix="fattr-scores-") as spill:
            (scores,) = score(plan, split, [attributes], engine=engine, folder=Path(spill))
            fitted, report = recalibrate(scores, fitted, settings)
        rows |= report["attributes"]
    if not any(row["status"] == FITTED for row in rows.values()):
        why = "; ".join(f"{name}: {row['status']}" for name, row in list(rows.items())[:3])
        raise UsageError(f"nothing can be fitted on {config.split} ({why}): label more images")
    warn(rows, settings)
    everything = [a for _, attributes in splits for a in attributes]
    return fitted, {"attributes": rows, "macro": mean_figures(rows, everything)}


def warn(rows: Report, settings: FitSettings) -> None:
    """A line for each attribute that did not get what was asked for."""
    for name, row in rows.items():
        if row["status"] != FITTED:
            log.warning("%s keeps its calibration: %s", name, row["status"])
        if row["threshold_status"] == UNREACHABLE:
            log.warning(
                "%s does not reach a precision of %g: its threshold is that of accuracy",
                name,
                settings.min_precision,
            )


def command_of(config: CalibrateConfig, bundle: Bundle, splits: Sequence[DatasetSplit]) -> str:
    """What to run for the same bundle, without this machine's paths."""
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    values = {name: getattr(config, name) for name in _FLAGS}
    values["detector"] = Path(config.detector).name
    words = ["fattr", "calibrate", "--model", bundle.spec.name]
    for split in splits:
        words += ["--data", f"{split.name}:DIR"]
    for name, value in values.items():
        if value != defaults[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--output", "DIR"])


def calibrated_spec(
    config: CalibrateConfig,
    bundle: Bundle,
    splits: Sequence[DatasetSplit],
    calibration: Calibration,
    report: Report,
) -> BundleSpec:
    """The bundle's description with the new calibration; it inherits the terms of that data too."""
    spec = bundle.spec
    licences = dict.fromkeys([spec.licence, *(split.licence for split in splits)])
    added = [one for one in licences if one == spec.licence or one not in spec.licence]
    how = {
        "command": command_of(config, bundle, splits),
        "from_model_id": bundle.model_id,
        "data": [
            {"name": s.name, "split": s.split, "images": len(s.samples), "licence": s.licence}
            for s in splits
        ],
        "macro": report["macro"],
        "methods": {name: row["method"] for name, row in report["attributes"].items()},
        "versions": versions(),
    }
    return dataclasses.replace(
        spec,
        name=config.name or spec.name,
        calibration=calibration,
        licence="; ".join(added),
        research_only=spec.research_only or any(split.research_only for split in splits),
        training={**spec.training, "calibration": how},
    )


def calibrate(config: CalibrateConfig) -> int:
    """Run the job; 0 when the new bundle is written.

    Raises:
        UsageError: the request is wrong; nothing was written.
        StorageError: the output cannot be written.
        RunError: the storage or the engine failed.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    output = local_folder(config.output)
    refuse_used_output(output)
    storage.check_writable(output.as_uri())
    bundle = bundles.find(config.model)
    splits = read_splits(config, bundle)
    calibration, report = fit_all(config, bundle, splits)
    spec = calibrated_spec(config, bundle, [s for s, _ in splits], calibration, report)
    made = bundles.save(output / "bundle", spec, weights=bundle.weights, onnx=bundle.onnx)
    (made.folder / CARD).write_text(model_card(spec, made.model_id, figures={}), encoding="utf-8")
    write_json(output.as_uri() + "/calibration.json", report)
    (output / "calibration.png").write_bytes(calibration_png(report["attributes"]))
    run = {
        "run_id": new_run_id(started),
        "job": "calibrate",
        "started": started.isoformat(),
        "seconds": round(time.monotonic() - clock, 1),
        "versions": versions(),
        "exit_code": 0,
        "model_id": made.model_id,
        "calibration": spec.training["calibration"],
        "licence": spec.licence,
    }
    write_json(output.as_uri() + "/run.json", run)
    (output / "_SUCCESS").write_bytes(b"")
    show(report, made, Console())
    return 0


def show(report: Report, made: Bundle, console: Console) -> None:
    """What changed, an attribute a row; figures are those of faces that were fitted.

    A star marks the threshold of an attribute that does not reach the precision asked for.
    """
    table = Table(box=box.SIMPLE, pad_edge=False, padding=0)  # fits 80 characters
    table.add_column("attribute", overflow="fold")
    table.add_column("method", no_wrap=True)
    columns = [(name, when) for name in ("ece", "brier") for when in ("before", "after")]
    columns += [("threshold", "after"), ("coverage", "after")]
    for name, when in columns:
        table.add_column(f"{name}\nbefore" if when == "before" else name, justify="right")
    for name, row in report["attributes"].items():
        cells = {column: shown(row[column[0]][column[1]]) for column in columns}
        if row["threshold_status"] == UNREACHABLE:
            cells["threshold", "after"] += "*"
            table.caption = "* precision not reached: the threshold is that of accuracy"
        table.add_row(name, row["method"] or "kept", *cells.values())
    console.print(table)
    means = report["macro"]
    log.info(
        "macro ECE %s -> %s (%s on held-out folds), macro accuracy %s -> %s; bundle %s in %s",
        shown(means["ece"]["before"]),
        shown(means["ece"]["after"]),
        shown(means["held_out"]["ece"]),
        shown(means["accuracy"]["before"]),
        shown(means["accuracy"]["after"]),
        made.model_id[:16],
        made.folder,
    )
