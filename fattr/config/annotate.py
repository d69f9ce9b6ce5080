"""Annotate, and what is done to its output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fattr.config.checks import (
    check_fraction,
    check_positive,
    check_statuses,
    parse_range,
    split_names,
)
from fattr.config.detect import DetectConfig
from fattr.errors import UsageError

DEFAULT_MODELS = ("demographics", "celeba40")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateConfig(DetectConfig):
    """Label the faces of photographs: images in, two Parquet tables out."""

    images: str
    """Folder, s3:// prefix, .txt file of URIs, Parquet/CSV manifest with a column image_uri, or
    the manifest.json of an S3 Inventory."""
    output: str
    """Folder or s3:// prefix for the tables; each run adds what is new or changed."""
    model: tuple[str, ...] = ()
    """Shipped name, bundle folder or training output; repeat for several. None: all shipped."""
    engine: Literal["auto", "ray", "local"] = "ray"
    """Ray Data, or the same stages in this process, which no image may crash; auto: this process
    for fewer than 1,000 images where nothing asks for a cluster."""
    sensitive: str = ""
    """Comma-separated sensitive attributes to write; they have no column otherwise."""
    purpose: str = ""
    """Why the sensitive attributes are needed; kept with the tables."""
    min_face_px: float = 32
    """Labels of smaller faces are null; their rows and probabilities stay."""
    max_pixels: int = 178_956_970
    """Images of more pixels are not decoded."""
    max_bytes: int = 268_435_456
    """Files of more bytes are not read."""
    include: tuple[str, ...] = ()
    """Only images whose name, or path where the glob has a slash, is like this; may be repeated."""
    exclude: tuple[str, ...] = ()
    """No images whose name, or path where the glob has a slash, is like this; may be repeated."""
    all: bool = False
    """Do all images again, not only those that are new or changed."""
    retry: str = ""
    """Comma-separated statuses, such as timeout,denied: do images again that ended so."""
    limit: int | None = None
    """Do at most this many images, the first by URI."""
    discard_unfinished: bool = False
    """Throw away what an unfinished run of another command made; it is continued otherwise."""
    dry_run: bool = False
    """Say what would be done, by which actors and in what time; write nothing."""
    hash_uris: str | None = None
    """File with a secret key: tables and manifest hold keyed hashes in place of URIs."""
    anonymous: bool = False
    """Read images without credentials."""
    requester_pays: bool = False
    """Pay for reading the images from a requester-pays bucket."""
    fetch_timeout: float = 120.0
    """Seconds to read one file in, all retries included."""
    image_timeout: float = 60.0
    """Seconds to decode and label one image in (Ray engine); it is poison if it takes longer."""
    max_bad_fraction: float = 1.0
    """Exit code 1 where more of the images than this end otherwise than ok or no_face."""
    preset: Literal["auto", "cpu", "gpu", "mixed"] = "auto"
    """Actors on CPUs, on GPUs, or on GPUs with decoding on CPUs; auto takes GPUs if there are."""
    actors: str | None = None
    """How many, as N or MIN:MAX; otherwise as many as the cluster has room for."""
    batch_size: int | None = None
    """Images a detector call takes: 1 on CPU, where more did not help, and 8 on a GPU."""
    profile: bool = False
    """Write OUTPUT/_runs/ID/profile.json, when each worker did what, for Perfetto or
    chrome://tracing; and say in a line what bounds the run and what to change."""
    rows_per_file: int = 100_000
    """About how many rows a file of the tables has."""
    notify_url: str | None = None
    """Where to POST the run's summary at its end, as JSON."""
    notify_command: str | None = None
    """What to run at its end, with the summary as JSON on its standard input."""

    def __post_init__(self) -> None:
        DetectConfig.__post_init__(self)
        for flag in ("limit", "max_pixels", "max_bytes", "batch_size", "rows_per_file"):
            check_positive(f"--{flag.replace('_', '-')}", getattr(self, flag))
        for flag in ("fetch_timeout", "image_timeout"):
            if not getattr(self, flag) > 0:
                name = flag.replace("_", "-")
                raise UsageError(f"--{name} must be over 0 seconds: {getattr(self, flag)}")
        check_fraction("--max-bad-fraction", self.max_bad_fraction)
        if self.all and self.retry:
            raise UsageError("--all does what --retry asks for: give one of them")
        check_statuses("--retry", self.retry_statuses)
        _ = self.actor_range  # raises if it is no range
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
        return split_names(self.sensitive)

    @property
    def retry_statuses(self) -> tuple[str, ...]:
        """The statuses named by ``retry``."""
        return split_names(self.retry)

    @property
    def actor_range(self) -> tuple[int, int] | None:
        """The least and the most actors; None where the cluster decides.

        Raises:
            UsageError: it is no range.
        """
        return None if self.actors is None else parse_range("--actors", self.actors)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryConfig:
    """Do the images of an annotate output again that ended with some statuses, and only those."""

    output: str
    """Folder or s3:// prefix that annotate wrote; may be given without the flag's name."""
    status: str
    """Comma-separated statuses, such as timeout,denied,unavailable,poison."""
    engine: Literal["auto", "ray", "local"] | None = None
    """Instead of the engine of the last run; all other settings are that run's."""

    def __post_init__(self) -> None:
        if not self.statuses:
            raise UsageError("--status: name at least one, such as timeout,denied")
        check_statuses("--status", self.statuses)

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses named by ``status``."""
        return split_names(self.status)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyConfig:
    """Prove that manifests, tables and files of an annotate output agree; exit code 1 if not."""

    output: str
    """Folder or s3:// prefix that annotate wrote; may be given without the flag's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetConfig:
    """Remove images and their faces from all files of an annotate output."""

    output: str
    """Folder or s3:// prefix that annotate wrote; may be given without the flag's name."""
    uris: str
    """Text file with the URI or path of one image a line."""
    hash_uris: str | None = None
    """The key file that annotate was given, where it was given one."""
    annotate_again: bool = False
    """Let later runs annotate them again; otherwise their ids are kept so that none does."""


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
        check_positive("--max-images", self.max_images)
