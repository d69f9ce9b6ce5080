"""The demonstration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Annotate photographs that come with installed packages and show what came of it."""

    output: str = "demo-output"
    """Folder for photographs, tables and contact sheet; an earlier demo's is replaced."""
    engine: Literal["auto", "ray", "local"] = "auto"
    """As of annotate: its few photographs are done in this process unless Ray is asked for."""
    model: tuple[str, ...] = ()
    """Shipped name, bundle folder or training output; repeat for several. None: all shipped."""
