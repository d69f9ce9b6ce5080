"""Tells somebody that a run ended: a POST, a command, or both. What it tells is plain JSON."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from http.client import HTTPException, HTTPMessage
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from fattr.errors import UsageError

log = logging.getLogger(__name__)

URL_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 60.0


def check_notify(*, url: str | None, command: str | None) -> None:
    """Refuse what could never be told, before the work that it is to tell of.

    Raises:
        UsageError: No web address, or no such command.
    """
    if url is not None:
        _check_url(url)
    if command is not None:
        _check_command(command)


def notify(
    summary: Mapping[str, Any],
    *,
    url: str | None,
    command: str | None,
    url_timeout_s: float = URL_TIMEOUT_S,
    command_timeout_s: float = COMMAND_TIMEOUT_S,
) -> None:
    """POST ``summary`` to ``url`` and run ``command`` with it on its standard input.

    A redirect is not followed. The command is split as a shell would, and run without one; its
    standard output is dropped. What fails is one warning, which names the host or the program and
    no more: an address or an argument may hold a secret.
    """
    data = json.dumps(summary, default=str).encode()
    if url is not None:
        _tell(f"{_host(url)} was not told", lambda: _post(url, data, url_timeout_s))
    if command is not None:
        program = command.split(maxsplit=1)[0] if command.strip() else "no command"
        _tell(f"{program} was not told", lambda: _run(command, data, command_timeout_s))


class _FailedError(Exception):
    """What went wrong, in words that tell no secret."""


def _tell(failed: str, how: Callable[[], None]) -> None:
    try:
        how()
    except _FailedError as problem:
        log.warning("%s that the run ended: %s", failed, problem)


class _NoRedirect(HTTPRedirectHandler):
    def redirect_request(
        self,
        req: Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> None:
        """A redirected POST would arrive without its content, or somewhere else."""


def _post(url: str, data: bytes, timeout_s: float) -> None:
    """Send; in a thread, since neither a name's look-up nor a trickling answer has a time limit."""
    answer: list[str] = []

    def send() -> None:
        answer.append(_answer(url, data, timeout_s))

    thread = threading.Thread(target=send, name="notify", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not answer:
        raise _FailedError(f"no answer within {timeout_s:g} s")
    if answer[0]:
        raise _FailedError(answer[0])


def _answer(url: str, data: bytes, timeout_s: float) -> str:
    """What went wrong; empty where it was taken."""
    try:
        _check_url(url)
        request = Request(url, data, {"Content-Type": "application/json"}, method="POST")
        with build_opener(_NoRedirect).open(request, timeout=timeout_s):
            return ""
    except HTTPError as error:
        error.close()
        return f"HTTP {error.code}" + (", a redirect" if 300 <= error.code < 400 else "")
    except OSError as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            return f"no answer within {timeout_s:g} s"
        return str(getattr(reason, "strerror", None) or type(reason).__name__)
    except UsageError:
        return "no web address"
    except (HTTPException, ValueError) as error:  # its words may repeat the address
        return type(error).__name__


def _run(command: str, data: bytes, timeout_s: float) -> None:
    try:
        done = subprocess.run(
            shlex.split(command),
            input=data,
            stdout=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise _FailedError(f"not done within {timeout_s:g} s") from None
    except OSError as error:
        raise _FailedError(error.strerror or type(error).__name__) from None
    except (ValueError, IndexError):
        raise _FailedError("no command") from None
    if done.returncode:
        raise _FailedError(f"exit code {done.returncode}")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "no host"
    except ValueError:
        return "no host"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname)
        is_address = is_address and parts.username is None and (parts.port or 1) > 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UsageError(
            "--notify-url is no web address: expected https://host/path, without user and password"
        )


def _check_command(command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if not words or shutil.which(words[0]) is None:
        raise UsageError(
            f"--notify-command: {words[0] if words else 'this'} is no program that can be run;"
            " expected a program and its arguments, without shell syntax"
        )
