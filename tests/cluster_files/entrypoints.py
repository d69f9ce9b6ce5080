"""Command lines, as manifests and documentation spell them, given to the jobs' own parsers."""

import re
import shlex
from pathlib import Path

import pytest

from fattr import cli
from fattr.errors import UsageError
from fattr.presets import train_preset

ROOT = Path(__file__).parents[2]
SUBMIT_FLAGS = {"--working-dir", "--address", "--no-wait", "--submission-id"}

# What stands for the rest where a document shortens a line to "...".
REST = {
    "annotate": ["--images", "/photos", "--output", "/tables"],
    "evaluate": ["--model", "m", "--data", "table:/data", "--output", "/eval"],
}


class ParsedError(Exception):
    """The job got as far as its settings, which are its argument."""


def parse(job, argv):
    """The settings that a job makes of its flags; the job itself does not run.

    Raises:
        UsageError: a flag is wrong.
    """
    real = cli._parse

    def parse_and_stop(config_type, job, argv):
        raise ParsedError(real(config_type, job, argv))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_parse", parse_and_stop)
        try:
            cli.JOBS[job](argv)
        except ParsedError as parsed:
            return parsed.args[0]
    raise UsageError(f"{job} has no settings")


def parse_line(line):
    """The job of a command line and its settings.

    Raises:
        UsageError: it is no command line of a job, or a flag is wrong.
    """
    words = shlex.split(line, comments=True)
    if words[:3] == ["ray", "job", "submit"]:
        words = after_submit(words[3:])
    program, name, *argv = [*words, "", ""]
    argv = argv[:-2]
    if program == "python" and (ROOT / name).is_file():
        job = Path(name).stem
    elif program == "fattr" and name in cli.JOBS:
        job = name
    else:
        raise UsageError(f"no job: {line}")
    if "..." in argv:
        argv = [word for word in argv if word != "..."] + REST[job]
    settings = parse(job, argv)
    if job in ("train", "tune") and not settings.preset.endswith(".toml"):
        train_preset(settings.preset)
    return job, settings


def after_submit(words):
    """The command that ``ray job submit`` is given."""
    flags = words[: words.index("--")] if "--" in words else words
    if unknown := {word for word in flags if word.startswith("--")} - SUBMIT_FLAGS:
        raise UsageError(f"ray job submit has no {sorted(unknown)}")
    return words[len(flags) + 1 :]


def entrypoint_problems(line):
    """What a job's parser has against the line: nothing, or one line."""
    try:
        parse_line(line)
    except UsageError as err:
        return [str(err)]
    return []


def documented(path):
    """Command lines in a Markdown file: lines of indented code, continued ones joined."""
    text = re.sub(r"\\\n\s*", " ", path.read_text())
    code = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    quoted = re.findall(r"`(python jobs/[^`]+)`", text)
    begins = ("python jobs/", "ray job submit", "fattr ")
    return [line for line in [*code, *quoted] if line.startswith(begins)]
