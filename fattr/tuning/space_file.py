"""A search space from a TOML file, one line a setting, or by a shipped name.

learning_rate = { loguniform = [1e-4, 1e-2] }
mixup_alpha   = { uniform = [0.0, 0.4] }
epochs        = { int = [4, 12] }
binary        = { choice = ["bce", "focal", "asymmetric"] }
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import tomllib
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fattr.config import TrainConfig
from fattr.errors import UsageError
from fattr.train.loss_settings import LossSettings
from fattr.train.plan import Recipe
from fattr.tuning.space import Choice, IntRange, LogUniform, Range, Space, Uniform, Value

# These say what the score is or what is kept on the way: trials must have them in common.
COMMON = ("best_metric", "num_checkpoints", "checkpoint_every", "compile")

SPACES: dict[str, Space] = {
    "rate": {"learning_rate": LogUniform(1e-4, 1e-1)},
    "recipe": {
        "learning_rate": LogUniform(1e-4, 1e-2),
        "batch_size": Choice((32, 64, 128)),
        "weight_decay": LogUniform(1e-3, 0.3),
        "dropout": Uniform(0.0, 0.5),
        "mixup_alpha": Choice((0.0, 0.2, 0.4)),
        "binary": Choice(("bce", "focal", "asymmetric")),
    },
}

FORMS = (
    "{ loguniform = [low, high] }, { uniform = [low, high] }, { int = [low, high] } or"
    " { choice = [...] }"
)


def searchable() -> tuple[str, ...]:
    """The settings that trials may differ in: flags of a training that change what is learnt."""
    recipe = {f.name for settings in (Recipe, LossSettings) for f in dataclasses.fields(settings)}
    wanted = (recipe | {"backbone", "init"}) - set(COMMON)
    return tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name in wanted)


def find_space(name_or_file: str) -> Space:
    """The space of a shipped name or a file.

    Raises:
        UsageError: there is none, or it says what cannot be searched.
    """
    if name_or_file in SPACES:
        return SPACES[name_or_file]
    path = Path(name_or_file)
    if not path.is_file():
        raise UsageError(
            f"--space {name_or_file}: a TOML file or one of {', '.join(SPACES)} expected"
        )
    return parse_space(path.read_bytes(), where=name_or_file)


def parse_space(data: bytes, *, where: str) -> Space:
    """The space that a file's content says; ``where`` is the file's name, for messages.

    Raises:
        UsageError: naming the setting, what was expected, and what came.
    """
    try:
        said = tomllib.loads(data.decode())
    except ValueError as err:  # of TOML, or of UTF-8
        raise UsageError(f"{where}: TOML expected: {err}") from None
    if not said:
        raise UsageError(f"{where}: no setting to search: name = {FORMS} expected")
    return {name: _range(name, form, f"{where}: {name}") for name, form in said.items()}


def _range(name: str, form: object, where: str) -> Range:
    if name not in searchable():
        close = difflib.get_close_matches(name, searchable(), n=1)
        hint = (
            f"did you mean {close[0]}?" if close else f"one of {', '.join(searchable())} expected"
        )
        raise UsageError(f"{where} cannot be searched: {hint}")
    if not isinstance(form, dict) or len(form) != 1:
        raise UsageError(f"{where}: {FORMS} expected: {form!r}")
    ((kind, values),) = form.items()
    if not isinstance(values, list):
        raise UsageError(f"{where}: a list expected: {kind} = {values!r}")
    type_, options = type_of(name)
    if kind == "choice":
        return _choice(values, type_, options, where)
    kinds = {float: ("loguniform", "uniform"), int: ("int",)}.get(type_, ())
    if kind not in kinds:
        allowed = " or ".join((*kinds, "choice"))
        raise UsageError(f"{where}: {allowed} expected: {kind}")
    low, high = _bounds(values, type_, kind, where)
    if kind == "int":
        return IntRange(int(low), int(high))
    return LogUniform(low, high) if kind == "loguniform" else Uniform(low, high)


def _bounds(values: list[Any], type_: type, kind: str, where: str) -> tuple[float, float]:
    numbers = [as_type(value, type_) for value in values]
    if (
        len(numbers) != 2
        or None in numbers
        or not numbers[0] < numbers[1]
        or (kind == "loguniform" and numbers[0] <= 0)
    ):
        noun = "whole numbers" if type_ is int else "numbers"
        above = " above 0" if kind == "loguniform" else ""
        raise UsageError(f"{where}: {kind} = [low, high], {noun}{above}, expected: {values}")
    return numbers[0], numbers[1]


def _choice(values: list[Any], type_: type, options: tuple[str, ...], where: str) -> Choice:
    converted = tuple(as_type(value, type_) for value in values)
    wrong = [v for v, c in zip(values, converted, strict=True) if c is None]
    if options:
        wrong = [value for value in values if value not in options]
    if wrong:
        expected = ", ".join(options) or {float: "numbers", int: "whole numbers"}.get(
            type_, f"values of type {type_.__name__}"
        )
        raise UsageError(f"{where}: {expected} expected: {wrong[0]!r}")
    if len(set(converted)) < max(2, len(converted)):
        raise UsageError(f"{where}: two or more different values expected: {values}")
    return Choice(converted)


def as_type(value: object, type_: type) -> Any:  # noqa: ANN401 -- of type_, or None
    """The value as ``type_``; None where it is of another type. A whole number is a number too."""
    if isinstance(value, bool) or type_ is bool:
        return value if type_ is bool and isinstance(value, bool) else None
    if type_ is float and isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return value if type_ is not float and isinstance(value, type_) else None


def type_of(name: str) -> tuple[type, tuple[str, ...]]:
    """The type of a flag, and the words it takes, if only some."""
    hint = get_type_hints(TrainConfig)[name]
    parts = [part for part in get_args(hint) if part is not NoneType] or [hint]
    if get_origin(hint) is Literal:
        parts = [hint]
    if get_origin(parts[0]) is Literal:
        return str, get_args(parts[0])
    return parts[0], ()


def as_toml(settings: dict[str, Value]) -> str:
    """Settings as lines of TOML."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in settings.items())


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return repr(value)
