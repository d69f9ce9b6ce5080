"""Settings of the jobs: frozen, checked once, and flags of the command line. Stdlib only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.errors import UsageError

DETECT_SIZE_STEP = 32
DEFAULT_MODELS = ("demographics", "celeba40")


def _check_detect_size(detect_size: int) -> None:
    if detect_size < DETECT_SIZE_STEP or detect_size % DETECT_SIZE_STEP:
        raise UsageError(
            f"--detect-size must be a positive multiple of {DETECT_SIZE_STEP}: {detect_size}"
        )


def _check_fraction(flag: str, value: float) -> None:
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{flag} must be in [0, 1]: {value}")


def _check_between(flag: str, value: float | None) -> None:
    if value is not None and not 0.0 < value < 1.0:
        raise UsageError(f"{flag} must be between 0 and 1: {value}")


def _check_positive(flag: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise UsageError(f"{flag} must be 1 or more: {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectConfig:
    """How faces are found."""

    detector: str = "retinaface_mobilenet025"
    """Shipped name, or a RetinaFace checkpoint (.pth, .safetensors)."""
    detect_size: int = 640
    """Long side in pixels at which faces are looked for; small images are enlarged to it."""
    score_threshold: float = 0.5
    """A face is kept at or above this score."""
    nms_iou_threshold: float = 0.4
    """Of two boxes that overlap more than this, the better stays."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        _check_detect_size(self.detect_size)
        _check_fraction("--score-threshold", self.score_threshold)
        _check_fraction("--nms-iou-threshold", self.nms_iou_threshold)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateConfig(DetectConfig):
    """Label the faces of photographs: images in, two Parquet tables out."""

    images: str
    """Folder, s3:// prefix, .txt file of URIs, or Parquet/CSV manifest with a column image_uri."""
    output: str
    """Folder or s3:// prefix for the tables; one run's worth in this version."""
    model: tuple[str, ...] = ()
    """Shipped name, bundle folder or training output; repeat for several. None: all shipped."""
    engine: Literal["ray", "local"] = "ray"
    """Ray Data, or the same stages in this process."""
    sensitive: str = ""
    """Comma-separated sensitive attributes to write; they have no column otherwise."""
    purpose: str = ""
    """Why the sensitive attributes are needed; kept with the tables."""
    min_face_px: float = 32
    """Labels of smaller faces are null; their rows and probabilities stay."""
    max_pixels: int = 178_956_970
    """Images of more pixels are not decoded."""
    limit: int | None = None
    """Take only the first images of the listing."""
    batch_size: int | None = None
    """Images a detector call takes: 1 on CPU, where more did not help, and 8 on a GPU."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        _check_positive("--limit", self.limit)
        _check_positive("--max-pixels", self.max_pixels)
        _check_positive("--batch-size", self.batch_size)
        if self.sensitive_names and not self.purpose.strip():
            raise UsageError('--sensitive needs --purpose "why these labels are needed"')
        if self.purpose and not self.sensitive_names:
            raise UsageError("--purpose is for --sensitive: name the attributes it is about")

    @property
    def model_names(self) -> tuple[str, ...]:
        """The models to run, each once; the first that has an attribute writes it."""
        return tuple(dict.fromkeys(self.model)) or DEFAULT_MODELS

    @property
    def sensitive_names(self) -> tuple[str, ...]:
        """The attributes named by ``sensitive``."""
        return tuple(name.strip() for name in self.sensitive.split(",") if name.strip())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig(DetectConfig):
    """Train a multi-attribute classifier and write it as a bundle."""

    preset: str
    """Named recipe: see fattr.presets."""
    data: tuple[str, ...]
    """Data set as NAME:DIR; repeat for several, which then train one network together."""
    output: str
    """Folder for bundle, checkpoints, history and run.json."""
    workers: int = 1
    """Ray Train workers; the batch size is that of all of them."""
    gpus: bool = False
    """One GPU for each worker."""
    augmentation: str | None = None
    """Instead of the preset's: none, photo, tight_photo, bucket, tight_bucket."""
    epochs: int | None = None
    """Instead of the preset's."""
    batch_size: int | None = None
    """Of all workers together, instead of the preset's."""
    learning_rate: float | None = None
    """Instead of the preset's."""
    optimizer: Literal["adamw", "sgd"] | None = None
    """Instead of the preset's."""
    weight_decay: float | None = None
    """Instead of the preset's; biases and norms are never decayed."""
    binary: Literal["bce", "focal", "asymmetric"] | None = None
    """Loss of yes/no attributes."""
    max_positive_weight: float | None = None
    """Weigh rare true samples up by prevalence, at most this much."""
    label_smoothing: float | None = None
    """Of attributes with several classes."""
    age_sigma: float | None = None
    """Spread of an age's soft target in years; 0: the labelled bin alone."""
    focal_gamma: float | None = None
    """How little the focal loss counts what is easy; 2 is usual."""
    dropout: float | None = None
    """Before the heads, instead of the preset's."""
    ema_decay: float | None = None
    """Of the averaged weights, which are the ones kept."""
    warmup_frac: float | None = None
    """Share of the steps over which the learning rate rises."""
    clip_norm: float | None = None
    """Largest norm of all gradients together."""
    accumulate: int | None = None
    """Cut a batch into this many parts, where it does not fit into memory at once."""
    mixup_alpha: float | None = None
    """Mix pairs of samples by shares from Beta(alpha, alpha); 0.2 is usual, 0 is off."""
    frozen_epochs: int | None = None
    """First epochs in which only the heads learn."""
    first_scale: float | None = None
    """Begin with crops of this share of their size and let them grow."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = None
    """Of the forward pass; auto is fp32 on CPU, and bf16 or fp16 on a GPU."""
    compile: bool = False
    """Compile the network with torch.compile first."""
    best_metric: Literal["score", "accuracy", "f1", "average_precision", "loss"] | None = None
    """What the kept epoch is best in, on the valid split."""
    patience: int | None = None
    """Stop after this many epochs without a better one."""
    num_checkpoints: int | None = None
    """Keep the checkpoints of this many best epochs."""
    seed: int = 0
    """Seed of initial weights, order and augmentation."""
    backbone: str | None = None
    """Instead of the preset's: see fattr architectures."""
    init: str | None = None
    """Instead of the preset's: imagenet, none (random weights) or a torchvision checkpoint."""
    init_from: str | None = None
    """Trained model (shipped name, bundle folder or training output) to start from instead."""
    limit: int | None = None
    """Take only the first images of each split."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        counts = ("workers", "epochs", "batch_size", "limit", "accumulate", "patience")
        for flag in (*counts, "num_checkpoints"):
            _check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        if not self.data:
            raise UsageError("--data NAME:DIR: name at least one data set")
        if self.init is not None and self.init_from is not None:
            raise UsageError("--init and --init-from exclude each other: give one of them")


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
            _check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        if self.robustness and self.crops == "dataset":
            raise UsageError("--robustness looks for faces again: it needs --crops detect")
        if self.card and self.limit is not None:
            raise UsageError("--card is for figures of a whole split: leave --limit out")
        if self.group_table and not self.groups:
            raise UsageError("--group-table needs --groups: name its columns to measure by")

    @property
    def group_names(self) -> tuple[str, ...]:
        """The columns named by ``groups``."""
        return tuple(name.strip() for name in self.groups.split(",") if name.strip())


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
        _check_positive("--limit", self.limit)
        if not self.data:
            raise UsageError("--data NAME:DIR: name at least one data set")
        _check_between("--min-precision", self.min_precision)
        _check_between("--min-confidence", self.min_confidence)
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
        _check_positive("--limit", self.limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheetConfig:
    """Draw the images of an annotate output with boxes and top attributes on one page."""

    output: str
    """Folder or s3:// prefix that annotate wrote."""
    png: str
    """File for the page; one that is there is replaced."""
    max_images: int = 40
    """Take only the first images of the table."""
    show_faces: bool = False
    """Leave the faces as they are; they are blurred otherwise."""

    def __post_init__(self) -> None:
        _check_positive("--max-images", self.max_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchitecturesConfig:
    """List the backbones with their parameters, multiply-adds and times on this machine."""

    crop_size: tuple[int, int] = (128, 104)
    """Height and width of the crops in pixels."""
    batch_size: int = 16
    """Crops at once, besides one alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks run; auto takes a GPU where there is one."""

    def __post_init__(self) -> None:
        _check_positive("--crop-size", min(self.crop_size))
        _check_positive("--batch-size", self.batch_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Annotate photographs that come with installed packages and show what came of it."""

    output: str = "demo-output"
    """Folder for photographs, tables and contact sheet; an earlier demo's is replaced."""
    engine: Literal["ray", "local"] = "ray"
    """Ray Data, or the same stages in this process."""
    model: tuple[str, ...] = ()
    """Shipped name, bundle folder or training output; repeat for several. None: all shipped."""
