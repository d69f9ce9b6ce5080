"""The command line: ``fattr JOB`` and ``python jobs/JOB.py`` run the same functions."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import tyro

from fattr.commands.exit_codes import EXIT_SIGNAL, EXIT_UNFINISHED, EXIT_USAGE
from fattr.config import (
    AnnotateConfig,
    ArchitecturesConfig,
    CalibrateConfig,
    ContactSheetConfig,
    DemoConfig,
    DescribeDataConfig,
    EvaluateConfig,
    ForgetConfig,
    RetryConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from fattr.errors import FattrError, UsageError

log = logging.getLogger(__name__)

Config = TypeVar("Config")


def _parse(config_type: type[Config], job: str, argv: Sequence[str]) -> Config:
    """The settings that the flags spell; a wrong flag is one line, as every wrong request is."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                config_type, prog=f"fattr {job}", args=argv, config=(tyro.conf.UseAppendAction,)
            )
    except SystemExit as stop:
        if stop.code in (None, 0):
            raise
        lines = [line.strip(" │╭╮╰╯─\n") for line in said.getvalue().splitlines()]
        text = " ".join(line for line in lines[1:] if line)
        problem = re.split(r"Got errors:|Argument helptext:|For full helptext", text)[0].strip()
        raise UsageError(f"{problem}; see fattr {job} --help") from None


def _annotate(argv: Sequence[str]) -> int:
    config = _parse(AnnotateConfig, "annotate", argv)
    from fattr.commands.annotate import annotate

    return annotate(config)


def _with_output(argv: Sequence[str]) -> Sequence[str]:
    """``OUTPUT ...`` as ``--output OUTPUT ...``."""
    return ["--output", *argv] if argv and not argv[0].startswith("-") else argv


def _retry(argv: Sequence[str]) -> int:
    config = _parse(RetryConfig, "retry", _with_output(argv))
    from fattr.commands.annotate import retry

    return retry(config)


def _verify(argv: Sequence[str]) -> int:
    config = _parse(VerifyConfig, "verify", _with_output(argv))
    from fattr.commands.keeping import verify_output

    return verify_output(config)


def _forget(argv: Sequence[str]) -> int:
    config = _parse(ForgetConfig, "forget", _with_output(argv))
    from fattr.commands.keeping import forget_images

    return forget_images(config)


def _train(argv: Sequence[str]) -> int:
    config = _parse(TrainConfig, "train", argv)
    from fattr.commands.train import train

    return train(config)


def _tune(argv: Sequence[str]) -> int:
    config = _parse(TuneConfig, "tune", argv)
    from fattr.commands.tune import tune

    return tune(config)


def _evaluate(argv: Sequence[str]) -> int:
    config = _parse(EvaluateConfig, "evaluate", argv)
    from fattr.commands.evaluate import evaluate

    return evaluate(config)


def _calibrate(argv: Sequence[str]) -> int:
    config = _parse(CalibrateConfig, "calibrate", argv)
    from fattr.commands.calibrate import calibrate

    return calibrate(config)


def _describe_data(argv: Sequence[str]) -> int:
    config = _parse(DescribeDataConfig, "describe-data", argv)
    from fattr.commands.describe_data import describe_data

    return describe_data(config)


def _models(argv: Sequence[str]) -> int:
    if argv:
        raise UsageError("fattr models takes no flags")
    from fattr.report.models_list import models_list

    print(models_list())
    return 0


def _architectures(argv: Sequence[str]) -> int:
    config = _parse(ArchitecturesConfig, "architectures", argv)
    from fattr.attributes import CELEBA40
    from fattr.build import resolve_device
    from fattr.classify.cost import architectures_table

    for part in architectures_table(
        CELEBA40,
        config.crop_size,
        device=resolve_device(config.device),
        batch_size=config.batch_size,
    ):
        print(part)
    return 0


def _contact_sheet(argv: Sequence[str]) -> int:
    config = _parse(ContactSheetConfig, "contact-sheet", _with_output(argv))
    from fattr.report.contact_sheet import contact_sheet

    title = contact_sheet(
        config.output, config.png, max_images=config.max_images, show_faces=config.show_faces
    )
    log.info("%s; page in %s", title, config.png)
    return 0


def _demo(argv: Sequence[str]) -> int:
    config = _parse(DemoConfig, "demo", argv)
    from fattr.demo import run_demo

    return run_demo(config.output, engine=config.engine, model=config.model)


JOBS: dict[str, Callable[[Sequence[str]], int]] = {
    "annotate": _annotate,
    "retry": _retry,
    "verify": _verify,
    "forget": _forget,
    "train": _train,
    "tune": _tune,
    "evaluate": _evaluate,
    "calibrate": _calibrate,
    "describe-data": _describe_data,
    "models": _models,
    "architectures": _architectures,
    "contact-sheet": _contact_sheet,
    "demo": _demo,
}


@contextlib.contextmanager
def _ended_by_sigterm(received: list[int]) -> Iterator[None]:
    """SIGTERM leaves the block by an exit, and is put down: Ray gives exits codes of its own."""

    def end(number: int, _: object) -> None:
        received.append(number)
        sys.exit(number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stopped(job: str, number: int) -> int:
    print(f"fattr {job}: stopped; the same command goes on", file=sys.stderr)
    return EXIT_SIGNAL + number


def run_job(job: str, argv: Sequence[str]) -> int:
    """Exit code of a job run with these flags; one line to standard error where it fails."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger("fattr").setLevel(logging.INFO)  # of others, warnings are enough
    received: list[int] = []
    try:
        with _ended_by_sigterm(received):
            return JOBS[job](argv)
    except KeyboardInterrupt:
        return _stopped(job, signal.SIGINT)
    except SystemExit:
        if not received:
            raise
        return _stopped(job, signal.SIGTERM)
    except UsageError as err:
        print(f"fattr {job}: {err}", file=sys.stderr)
        return EXIT_USAGE
    except FattrError as err:
        print(f"fattr {job}: {err}", file=sys.stderr)
        return EXIT_UNFINISHED
    except Exception:  # the top: a bug ends with its traceback and its own code
        log.exception("fattr %s: a bug; please report it with the lines above", job)
        return EXIT_UNFINISHED


def main() -> None:
    """The console script ``fattr``."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["--version"]:
        from fattr import __version__

        print(f"fattr {__version__}")
        return
    if not arguments or arguments[0] not in JOBS:
        print(f"usage: fattr {{{','.join(JOBS)}}} ...  (--help after a job shows its flags)")
        sys.exit(0 if arguments[:1] in (["--help"], ["-h"]) else EXIT_USAGE)
    sys.exit(run_job(arguments[0], arguments[1:]))
