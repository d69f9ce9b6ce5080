"""A training's recipe from a TOML file: the ``best.toml`` of a search, or one of your own.

preset        = "celeba40"   # a shipped one, of which the rest replaces parts
learning_rate = 0.003
binary        = "focal"
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import tomllib
from collections.abc import Mapping
from typing import Any, TypeVar

from fattr import storage
from fattr.config import TrainConfig
from fattr.errors import StorageError, UsageError
from fattr.tuning.space import Value
from fattr.tuning.space_file import COMMON, as_type, searchable, type_of

log = logging.getLogger(__name__)

ENDING = ".toml"  # of what --preset takes for a file

WORDS: Mapping[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text in quotes",
}

Config = TypeVar("Config", bound=TrainConfig)


def settable() -> tuple[str, ...]:
    """What a preset file may say: flags of a training that no data set and no machine decides."""
    return ("preset", *searchable(), *COMMON, "init_from")


def resolved(config: Config) -> Config:
    """The flags with a preset file's settings for those not given; others as they are.

    A flag given with its default's value is not told from one left out: a switch that the file
    turns on stays on, which the log tells.

    Raises:
        UsageError: there is no such file, or it says what no preset does.
    """
    if not config.preset.endswith(ENDING):
        return config
    file, said = config.preset, read_preset(config.preset)
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    wanted = {
        name: value
        for name, value in said.items()
        if name == "preset" or getattr(config, name) == defaults[name]
    }
    if on := [name.replace("_", "-") for name, value in wanted.items() if value is True]:
        log.info(
            "--preset %s turns on --%s; to have it off, change the file: --no-%s does not do it",
            file,
            ", --".join(on),
            ", --no-".join(on),
        )
    try:
        return dataclasses.replace(config, **wanted)
    except UsageError as err:
        raise UsageError(f"--preset {file}: {err}") from None


def read_preset(file: str) -> dict[str, Any]:
    """What a preset file says, by the names of flags.

    Raises:
        UsageError: naming the setting, what was expected, and what came.
    """
    try:
        said = tomllib.loads(storage.read_bytes(storage.canonical_uri(file)).decode())
    except StorageError as err:
        raise UsageError(f"--preset {file}: a TOML file expected: {err.reason}") from None
    except ValueError as err:  # of TOML, or of UTF-8
        raise UsageError(f"--preset {file}: TOML expected: {err}") from None
    if "preset" not in said:
        raise UsageError(f'--preset {file}: preset = "NAME" of a shipped one expected')
    return {name: _value(name, value, f"--preset {file}: {name}") for name, value in said.items()}


def _value(name: str, value: object, where: str) -> Value:
    if name not in settable():
        close = difflib.get_close_matches(name, settable(), n=1)
        hint = f"did you mean {close[0]}?" if close else f"one of {', '.join(settable())} expected"
        raise UsageError(f"{where} is no part of a preset: {hint}")
    type_, options = type_of(name)
    found: Value | None = as_type(value, type_)
    if found is None or (options and found not in options):
        expected = ", ".join(options) or WORDS[type_]
        raise UsageError(f"{where}: {expected} expected: {value!r}")
    return found
