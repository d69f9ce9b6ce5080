"""Label the faces in millions of photographs: images in, Parquet tables out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# onnxruntime's packages report to their maker, unless this is there before the import.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

if TYPE_CHECKING:
    from fattr.published.catalog import open_tables as open_tables

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """What is exported, imported when it is first asked for: `import fattr` stays quick."""
    if name == "open_tables":
        from fattr.published.catalog import open_tables

        return open_tables
    raise AttributeError(f"module 'fattr' has no attribute {name!r}")
