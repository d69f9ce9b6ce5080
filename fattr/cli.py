"""The command line: ``fattr JOB`` and ``python jobs/JOB.py`` run the same functions."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

import tyro

from fattr.config import AnnotateConfig, EvaluateConfig, TrainConfig
from fattr.errors import FattrError, UsageError

EXIT_USAGE, EXIT_UNFINISHED = 2, 3


def _annotate(argv: Sequence[str]) -> int:
    config = tyro.cli(AnnotateConfig, args=argv, config=(tyro.conf.UseAppendAction,))
    from fattr.annotate_job import annotate

    return annotate(config)


def _train(argv: Sequence[str]) -> int:
    config = tyro.cli(TrainConfig, args=argv, config=(tyro.conf.UseAppendAction,))
    from fattr.train_job import train

    return train(config)


def _evaluate(argv: Sequence[str]) -> int:
    config = tyro.cli(EvaluateConfig, args=argv)
    from fattr.evaluate_job import evaluate

    return evaluate(config)


JOBS: dict[str, Callable[[Sequence[str]], int]] = {
    "annotate": _annotate,
    "train": _train,
    "evaluate": _evaluate,
}


def run_job(job: str, argv: Sequence[str]) -> int:
    """Exit code of a job run with these flags; one line to standard error where it fails."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    try:
        return JOBS[job](argv)
    except UsageError as err:
        print(f"fattr {job}: {err}", file=sys.stderr)
        return EXIT_USAGE
    except FattrError as err:
        print(f"fattr {job}: {err}", file=sys.stderr)
        return EXIT_UNFINISHED


def main() -> None:
    """The console script ``fattr``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in JOBS:
        print(f"usage: fattr {{{','.join(JOBS)}}} ...  (--help after a job shows its flags)")
        sys.exit(EXIT_USAGE)
    sys.exit(run_job(arguments[0], arguments[1:]))
