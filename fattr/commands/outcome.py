"""How a run ended: kept in ``run.json``, and told to whom it may concern."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fattr import storage
from fattr.commands.exit_codes import EXIT_UNFINISHED
from fattr.commands.profile import PROFILE
from fattr.config import AnnotateConfig
from fattr.errors import FattrError, RunError
from fattr.notify import notify
from fattr.runs.record import RunRecord
from fattr.runs.run import Run

log = logging.getLogger(__name__)


@contextmanager
def failures_told(
    config: AnnotateConfig, run: Run, record: RunRecord, check: Callable[[], None]
) -> Iterator[None]:
    """A failure as a line in ``run.json``, to whom it may concern, and to the caller."""
    try:
        yield
    except Exception as err:
        record.content |= failure(config, EXIT_UNFINISHED, err, run)
        try:
            check()  # where the lease is lost, run.json is another's
            record.note("failed")
        except FattrError as unsaid:  # as when the disk is full: what made the run fail matters
            log.warning("run.json could not be written: %s", unsaid)
        tell(config, record)
        if isinstance(err, FattrError | OSError):
            raise RunError(problem_at(err, run.output)) from err
        raise


def tell(config: AnnotateConfig, record: RunRecord) -> None:
    """Whoever wants to know, how the run ended."""
    notify(summary_of(record), url=config.notify_url, command=config.notify_command)


def failure(config: AnnotateConfig, code: int, err: Exception, run: Run) -> dict[str, Any]:
    """What is kept and told of it; of a bug only its type, for its words may hold a secret.

    Under --hash-uris no words at all, which may name an image.
    """
    if not isinstance(err, FattrError | OSError):
        kept = f"a bug: {type(err).__name__}"
    elif config.hash_uris:
        kept = "the log of the command says what"
    else:
        kept = problem_at(err, run.output)
    return {"exit_code": code, "error": kept}


def problem_at(err: FattrError | OSError, output: str) -> str:
    """What went wrong with an output, by its URI, and what to do, on one line."""
    if isinstance(err, RunError):
        return str(err)
    said = str(err)
    if isinstance(err, OSError):
        said = f"reading or writing {output} failed: {storage.words_of(err)}"
    return f"{said}; what is done is kept: mend that and run the same command again"


def summary_of(record: RunRecord) -> dict[str, Any]:
    """What is told at the end."""
    names = ("run_id", "started", "exit_code", "error", "seconds", "increment", "num_images")
    return {name: record.content.get(name) for name in (*names, "num_faces", "by_status")}


def say_done(run: Run, record: RunRecord) -> None:
    """A line of what came of it, and under --profile one of what bounds it."""
    content = record.content
    by_status = Counter(content["by_status"]).most_common()
    log.info(
        "done: %d faces in %d images (%s), %.1f s, tables in %s",
        content["num_faces"],
        content["num_images"],
        ", ".join(f"{count} {status}" for status, count in by_status) or "nothing to do",
        record.seconds,
        run.output,
    )
    if "bottleneck" in content:
        log.info("%s (when who did what: %s)", content["bottleneck"], run.file(PROFILE))
