"""What several settings are checked by; each refusal is a UsageError that names the flag."""

from __future__ import annotations

from fattr.errors import UsageError
from fattr.records import Status

DETECT_SIZE_STEP = 32


def check_detect_size(detect_size: int) -> None:
    """Refuse a long side that the detector cannot take."""
    if detect_size < DETECT_SIZE_STEP or detect_size % DETECT_SIZE_STEP:
        raise UsageError(
            f"--detect-size must be a positive multiple of {DETECT_SIZE_STEP}: {detect_size}"
        )


def check_fraction(flag: str, value: float) -> None:
    """Refuse what is no share."""
    if not 0.0 <= value <= 1.0:
        raise UsageError(f"{flag} must be in [0, 1]: {value}")


def check_between(flag: str, value: float | None) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if value is not None and not 0.0 < value < 1.0:
        raise UsageError(f"{flag} must be between 0 and 1: {value}")


def split_names(text: str) -> tuple[str, ...]:
    """The names of a comma-separated list."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_statuses(flag: str, names: tuple[str, ...]) -> None:
    """Refuse names that are no status of an image."""
    known = [str(status) for status in Status]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{flag} {unknown[0]}: expected some of {', '.join(known)}")


def check_positive(flag: str, value: int | None) -> None:
    """Refuse what is below 1."""
    if value is not None and value < 1:
        raise UsageError(f"{flag} must be 1 or more: {value}")
