"""``fattr verify`` and ``fattr forget``: what is done to an output between its runs."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fattr import storage
from fattr.commands.work import key_id, read_key
from fattr.config import ForgetConfig, VerifyConfig
from fattr.errors import StorageError, UsageError
from fattr.progress import ListingBar
from fattr.published.forget import forget
from fattr.published.verify import verify
from fattr.runs.lease import hold_lease
from fattr.runs.manifest import UriNames
from fattr.runs.take_up import read_past

log = logging.getLogger(__name__)

EXIT_SOUND, EXIT_PROBLEMS = 0, 1


def verify_output(config: VerifyConfig) -> int:
    """Check every finished run of an output; 1 where something does not agree.

    Raises:
        UsageError: there is no run.
    """
    output = storage.canonical_uri(config.output)
    past = read_past(output)
    if past.latest is None:
        raise UsageError(f"{output} holds no run: expected an output of fattr annotate")
    with ListingBar("verifying", "files") as bar:
        problems = verify(output, on_file=lambda _: bar.advance(1))
    for problem in problems:
        log.error("%s", problem)
    for run in past.unfinished:
        log.warning("run %s is not finished: run its command again", run.run_id)
    log.info("%d finished runs, %s", len(past.finished), said(len(problems)))
    return EXIT_PROBLEMS if problems else EXIT_SOUND


def said(num_problems: int) -> str:
    """The verdict in words."""
    return "all sound" if not num_problems else f"{num_problems} problems"


def forget_images(config: ForgetConfig) -> int:
    """Remove images from an output.

    Raises:
        UsageError: the list cannot be read, or a run is unfinished.
    """
    output = storage.canonical_uri(config.output)
    uris = read_uris(config.uris)
    names = names_of(output, config.hash_uris)
    with hold_lease(output) as lease:
        done = forget(
            output,
            uris,
            names=names,
            keep_out=not config.annotate_again,
            started=datetime.now(UTC),
            check=lease.check,
        )
    log.info("%s", done.describe())
    return EXIT_SOUND


def read_uris(place: str) -> list[str]:
    """The URIs of a text file, one a line; blank lines and those that start with # are left out.

    Raises:
        UsageError: It cannot be read, or names nothing.
    """
    uri = storage.canonical_uri(place)
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig", "surrogateescape")
    except StorageError as error:
        raise UsageError(f"--uris {error}: expected a text file of one URI a line") from None
    lines = [line.strip() for line in text.splitlines()]
    uris = [
        storage.canonical_uri(line, beside=uri)
        for line in lines
        if line and not line.startswith("#")
    ]
    if not uris:
        raise UsageError(f"--uris {place} names no image: expected one URI a line")
    return uris


def names_of(output: str, key_file: str | None) -> UriNames:
    """How the output names its images.

    Raises:
        UsageError: It was made with another key, or with one that is not given.
    """
    key = read_key(key_file) if key_file else None
    told = read_past(output).told()
    if told is None:
        raise UsageError(f"{output} holds no run: expected an output of fattr annotate")
    made_with = told[1]["settings"]["uri_key_id"]
    if made_with != (key_id(key) if key else None):
        wanted = "the key file it was made with" if made_with else "no --hash-uris"
        raise UsageError(f"{output}: its images are named otherwise; expected {wanted}")
    return UriNames(key)
