"""An HTTP proxy that stands in front of an S3 server and spoils a share of what passes.

Requests pass through as they came, ``Host`` included, so that their signatures stay valid. Nothing
but the standard library.
"""

from __future__ import annotations

import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

UPSTREAM_TIMEOUT_S = 60.0
NOT_PASSED_ON = {"connection", "expect", "keep-alive", "transfer-encoding"}  # of one hop only


class Fault(StrEnum):
    """What may happen to a request."""

    SLOW_DOWN = "slow_down"  # 503 with S3's error; the server never sees the request
    HANG = "hang"  # no answer for a while, then the connection closes
    RESET = "reset"  # the connection is reset; the server never sees the request
    TRUNCATED = "truncated"  # the server did it, but its answer breaks off half-way


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the proxy does to requests.

    ``bytes_per_s`` is how fast the bodies of all requests together go through, one after another,
    however many connections a client opens; None: at once.
    ``expires_after`` is the number of requests after which the access key of the last of them is
    no longer taken; another key is.
    """

    share: float = 0.0
    seed: int = 0
    faults: tuple[Fault, ...] = tuple(Fault)
    hang_s: float = 40.0
    bytes_per_s: float | None = None
    expires_after: int | None = None


@dataclass(slots=True)
class Proxy:
    """A proxy at work, and what it did."""

    url: str
    plan: Plan
    counts: Counter[str] = field(default_factory=Counter)
    expired_keys: set[str] = field(default_factory=set)
    etags: dict[str, str] = field(default_factory=dict)
    _random: random.Random = field(default_factory=random.Random)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _line_free_at: float = 0.0
    writing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._random.seed(self.plan.seed)

    def next_fault(self) -> Fault | None:
        """The fate of the next request: the same sequence for the same seed."""
        with self._lock:
            self.counts["requests"] += 1
            is_spoiled = self._random.random() < self.plan.share
            fault = self._random.choice(self.plan.faults)
            if is_spoiled:
                self.counts[str(fault)] += 1
        return fault if is_spoiled else None

    def is_expired(self, access_key: str) -> bool:
        """Whether a key is taken no more; every request counts towards the next expiry."""
        limit = self.plan.expires_after
        with self._lock:
            if limit is not None and self.counts["requests"] >= limit and not self.expired_keys:
                self.expired_keys.add(access_key)
            expired = access_key in self.expired_keys
            self.counts["expired"] += expired
        return expired

    def delay(self, num_bytes: int, now: float) -> float:
        """Seconds until so many bytes that come now are through, behind those that came before."""
        if not self.plan.bytes_per_s:
            return 0.0
        with self._lock:
            begin = max(now, self._line_free_at)
            self._line_free_at = begin + num_bytes / self.plan.bytes_per_s
            return self._line_free_at - now

    @property
    def num_faults(self) -> int:
        """Requests spoiled so far."""
        return sum(self.counts[str(fault)] for fault in Fault)


@contextmanager
def fault_proxy(upstream_url: str, plan: Plan) -> Iterator[Proxy]:
    """A proxy in front of ``upstream_url`` (``http://host:port``), on a port of its own."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.upstream = urlsplit(upstream_url).netloc
    server.proxy = Proxy(f"http://127.0.0.1:{server.server_address[1]}", plan)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client may keep its connection for as long as it likes
    request_queue_size = 256
    upstream: str
    proxy: Proxy

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away in the middle of an answer is no event."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


EMPTY_FOLDER = _Answer(200, [("ETag", '"d41d8cd98f00b204e9800998ecf8427e"')], b"")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def setup(self) -> None:
        super().setup()
        self._upstream = HTTPConnection(self.server.upstream, timeout=UPSTREAM_TIMEOUT_S)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def do_GET(self) -> None:
        proxy, body = self.server.proxy, self._read_body()
        time.sleep(proxy.delay(len(body), time.monotonic()))
        fault = proxy.next_fault()
        if proxy.is_expired(access_key(self.headers.get("Authorization", ""))):
            self._answer(_error(400, "ExpiredToken", "The provided token has expired."))
        elif fault is Fault.SLOW_DOWN:
            self._answer(_error(503, "SlowDown", "Please reduce your request rate."))
        elif fault is Fault.HANG:
            time.sleep(proxy.plan.hang_s)
            self.close_connection = True
        elif fault is Fault.RESET:
            self._reset()
        else:
            self._answer(self._done(body), breaks_off=fault is Fault.TRUNCATED)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 -- names http.server looks up

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass
        return body

    def _done(self, body: bytes) -> _Answer:
        """The server's answer; writes keep the conditions that the server may not know."""
        if self.command not in ("PUT", "POST", "DELETE"):
            return self._pass_on(body)
        if self.command == "PUT" and self.path.endswith("/") and not body:
            return EMPTY_FOLDER  # Arrow's folder markers, which rclone refuses where files are
        with self.server.proxy.writing:
            if self._is_refused():
                return _error(412, "PreconditionFailed", "A condition did not hold.")
            answer = self._pass_on(body)
            self._remember(answer)
        return answer

    def _is_refused(self) -> bool:
        """Whether an ``If-None-Match`` or ``If-Match`` fails, of what was written through here."""
        etag = self.server.proxy.etags.get(self.path.partition("?")[0])
        wanted = self.headers.get("If-Match")
        if wanted is not None:
            return etag is None or wanted.strip('"') != etag
        return self.headers.get("If-None-Match") == "*" and etag is not None

    def _remember(self, answer: _Answer) -> None:
        if answer.status >= 300:
            return
        etags = self.server.proxy.etags
        path, _, query = self.path.partition("?")
        etag = next((v.strip('"') for name, v in answer.headers if name.lower() == "etag"), None)
        if self.command == "DELETE" and "uploadId" not in query:
            etags.pop(path, None)
        elif self.command == "PUT" and "partNumber" not in query and etag:
            etags[path] = etag

    def _pass_on(self, body: bytes) -> _Answer:
        try:
            return self._ask(body)
        except (HTTPException, OSError):  # the server closed a connection that had been idle
            self._upstream.close()
            return self._ask(body)

    def _ask(self, body: bytes) -> _Answer:
        upstream = self._upstream
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in NOT_PASSED_ON | {"content-length"}:
                upstream.putheader(name, value)
        if body or self.command in ("PUT", "POST"):
            upstream.putheader("Content-Length", str(len(body)))
        upstream.endheaders(body or None)
        response = upstream.getresponse()
        return _Answer(response.status, response.getheaders(), response.read())

    def _answer(self, answer: _Answer, *, breaks_off: bool = False) -> None:
        length = next((v for n, v in answer.headers if n.lower() == "content-length"), None)
        is_head = self.command == "HEAD"
        self.send_response_only(answer.status)
        for name, value in answer.headers:
            if name.lower() not in NOT_PASSED_ON | {"content-length"}:
                self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", (is_head and length) or str(len(answer.body)))
        if breaks_off and not answer.body:
            self._reset()  # before a byte of the head is sent
            return
        self.end_headers()
        if breaks_off:
            self.wfile.write(answer.body[: len(answer.body) // 2])
            self.close_connection = True
        elif not is_head:
            self.wfile.write(answer.body)

    def _reset(self) -> None:
        """Close so that the client gets a reset, not an end."""
        linger_at_once = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_at_once)
        self.connection.close()
        self.close_connection = True


def access_key(authorization: str) -> str:
    """The access key id in a version 4 ``Authorization`` header; empty where there is none."""
    _, _, rest = authorization.partition("Credential=")
    return rest.partition("/")[0]


def _error(status: int, code: str, message: str) -> _Answer:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return _Answer(status, [("Content-Type", "application/xml")], body.encode())
