"""Who did what to an OUTPUT and when: files that are written once and never again."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from fattr import storage


def who() -> dict[str, str]:
    """The operating system's user and the machine that a command runs as and on."""
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run as a number without a name
        user = f"uid {os.getuid()}"
    return {"user": user, "host": socket.gethostname()}


def write_audit(output: str, run_id: str, started: datetime, content: Mapping[str, Any]) -> str:
    """Write ``_audit/<utc>-<run_id>.json``; its URI.

    One of the same content that is there already is left as it is: what was cut short is done
    again. One of other content is left too, and this one gets the next second that is free.

    Args:
        output: The OUTPUT's URI.
        run_id: The run, or what else was done.
        started: When it began; knows its zone.
        content: JSON. It holds no credential and, of an OUTPUT of hashed URIs, no URI.

    Raises:
        StorageError: It could not be written.
    """
    text = json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True, default=str) + "\n"
    data, at = text.encode(errors="backslashreplace"), started  # a lone surrogate, as JSON has it
    while True:
        uri = storage.join(output, "_audit", f"{at:%Y%m%dT%H%M%SZ}-{run_id}.json")
        if storage.write_new(uri, data) is not None or storage.read_bytes(uri) == data:
            return uri
        at += timedelta(seconds=1)
