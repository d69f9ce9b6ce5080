"""Measuring and calibrating models, and describing data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.config.checks import check_between, check_positive, split_names
from fattr.config.detect import DetectConfig
from fattr.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(DetectConfig):
    """Measure a model on a labelled data set: how good, for whom, and when not to trust it."""

    model: str
    """Shipped name, bundle folder or training output."""
    data: str
    """Data set as NAME:DIR."""
    output: str
    """Folder for metrics.json, metrics.parquet, report.html and report.md."""
    split: Literal["train", "valid", "test"] = "test"
    """Which part of the data set."""
    groups: str = ""
    """Comma-separated group columns, such as race: of the data set, or of --group-table."""
    group_table: str | None = None
    """CSV or Parquet with a column image (path beside it, or URI) and group columns of your own."""
    min_group: int = 30
    """Groups of fewer faces are shown as too few."""
    against: str | None = None
    """Another model to compare with on the same faces."""
    require: tuple[str, ...] = ()
    """Bar to clear, as "macro_f1>=0.70"; repeat for several. Exit code 1 where one is missed."""
    robustness: bool = False
    """Also measure with small, blurred, compressed, dark, turned and hidden faces."""
    robustness_images: int = 300
    """How many images of the split that takes: 300 give intervals of about 2 points."""
    review: bool = False
    """Also write mistakes as contact sheets, which show faces, and a table to correct labels in."""
    crops: Literal["detect", "dataset"] = "detect"
    """Crop around the detected face as in serving, or take the data set's pictures as crops."""
    min_face_px: float = 32
    """Only to report which share of faces annotate would leave unlabelled."""
    engine: Literal["auto", "ray", "local"] = "auto"
    """Ray Data or this process, with equal figures; auto takes Ray from 20,000 images on."""
    keep_scores: bool = False
    """Also write scores.parquet: labels and logits of every face, with its image's URI."""
    limit: int | None = None
    """Take only the first images of the split."""
    card: bool = False
    """Also write the figures into the bundle's model card and metrics.json."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        for flag in ("limit", "min_group", "robustness_images"):
            check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        if self.robustness and self.crops == "dataset":
            raise UsageError("--robustness looks for faces again: it needs --crops detect")
        if self.card and self.limit is not None:
            raise UsageError("--card is for figures of a whole split: leave --limit out")
        if self.group_table and not self.groups:
            raise UsageError("--group-table needs --groups: name its columns to measure by")

    @property
    def group_names(self) -> tuple[str, ...]:
        """The columns named by ``groups``."""
        return split_names(self.groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrateConfig(DetectConfig):
    """Fit probabilities, thresholds and abstention to a data set: a new bundle with its own id."""

    model: str
    """Shipped name, bundle folder or training output."""
    data: tuple[str, ...]
    """Data set as NAME:DIR; repeat for several that label different attributes."""
    output: str
    """Folder for the new bundle and calibration.json."""
    name: str | None = None
    """Of the new bundle; otherwise that of the model."""
    split: Literal["valid", "test", "train"] = "valid"
    """Which part to fit on; a model must be measured on another one."""
    method: Literal["auto", "temperature", "platt", "isotonic"] = "auto"
    """How logits become probabilities; auto takes the best by cross-validation."""
    objective: Literal["accuracy", "balanced_accuracy", "f1", "precision"] = "accuracy"
    """What thresholds of yes/no attributes are best for."""
    min_precision: float | None = None
    """Of --objective precision: the lowest threshold that surely reaches it; 0.9 if not given."""
    coverage: float | None = None
    """Share of faces to label: the least certain of each attribute get none."""
    min_confidence: float | None = None
    """Or: no label that is right with a lower probability; ages, means in years, keep theirs."""
    crops: Literal["detect", "dataset"] = "detect"
    """Crop around the detected face as in serving, or take the data set's pictures as crops."""
    engine: Literal["auto", "ray", "local"] = "auto"
    """Ray Data or this process; auto takes Ray from 20,000 images on."""
    limit: int | None = None
    """Take only the first images of the split."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        check_positive("--limit", self.limit)
        if not self.data:
            raise UsageError("--data NAME:DIR: name at least one data set")
        check_between("--min-precision", self.min_precision)
        check_between("--min-confidence", self.min_confidence)
        if self.min_precision is not None and self.objective != "precision":
            raise UsageError("--min-precision needs --objective precision")
        if self.coverage is not None and not 0 < self.coverage <= 1:
            raise UsageError(f"--coverage must be over 0 and at most 1: {self.coverage}")
        if self.coverage is not None and self.min_confidence is not None:
            raise UsageError("--coverage and --min-confidence exclude each other: give one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribeDataConfig:
    """Check the images of a labelled data set and describe them and their labels on one page."""

    data: str
    """Data set as NAME:DIR."""
    output: str
    """Folder for DATA_CARD.md, its plots, data.json and facts.parquet; it shows no faces."""
    limit: int | None = None
    """Take only the first images of each split."""

    def __post_init__(self) -> None:
        check_positive("--limit", self.limit)
