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
    check_least(flag, value, 1)


def check_least(flag: str, value: int | None, least: int) -> None:
    """Refuse what is below that."""
    if value is not None and value < least:
        raise UsageError(f"{flag} must be {least} or more: {value}")


def parse_range(flag: str, text: str) -> tuple[int, int]:
    """The least and the most of ``N`` or ``MIN:MAX``.

    Raises:
        UsageError: it is no range.
    """
    least, _, most = text.partition(":")
    try:
        both = int(least), int(most or least)
    except ValueError:
        both = 0, 0
    if not 1 <= both[0] <= both[1]:
        raise UsageError(f"{flag} {text}: N or MIN:MAX expected, such as 4:32")
    return both
