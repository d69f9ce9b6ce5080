"""What was done: run ids, versions, and ``run.json``."""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

from fattr import storage

PACKAGES = ("fattr", "ray", "torch", "torchvision", "onnxruntime", "pillow", "pyarrow", "numpy")


def new_run_id(started: datetime) -> str:
    """Sorts by time, unique without coordination: ``20261123T211700Z-3f9c1a``."""
    return f"{started:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def versions() -> dict[str, str]:
    """Python and the packages that can change a result."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def write_json(uri: str, content: Mapping[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    text = json.dumps(content, indent=1, ensure_ascii=False, default=str)
    storage.write_bytes(uri, text.encode() + b"\n")
