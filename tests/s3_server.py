"""Local S3 servers beside moto: one that always says the same, one whose answers go wrong."""

from __future__ import annotations

import copy
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


def set_aws_environment(patch: pytest.MonkeyPatch, url: str) -> None:
    """The whole AWS environment, so that nothing of the machine's own is used."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        patch.delenv(name, raising=False)
    values = {
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_ACCESS_KEY_ID": "test-key-id",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_ENDPOINT_URL": url,
    }
    for name, value in values.items():
        patch.setenv(name, value)


@dataclass(frozen=True)
class Answer:
    """What the canned server says to every request."""

    status: int
    code: str = ""
    body: bytes | None = None
    claimed_bytes: int | None = None  # Content-Length, where it differs from the body's
    delay_s: float = 0.0

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        return f"<Error><Code>{self.code}</Code><Message>for KEY-IN-BODY</Message></Error>".encode()


@contextmanager
def canned_server(answer: Answer) -> Iterator[str]:
    """The URL of a server that gives one answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(answer.delay_s)
            content = answer.content()
            self.send_response(answer.status)
            self.send_header("Content-Length", str(answer.claimed_bytes or len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)
            self.close_connection = True

        def do_PUT(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        do_HEAD = do_GET  # noqa: N815 -- the name http.server looks up
        do_POST = do_PUT  # noqa: N815

        def log_message(self, format, *args):
            pass

    with _serving(Handler) as url:
        yield url


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True)
class Cut:
    """The answer ends after so many bytes of its body: it is reset, or just ends."""

    num_bytes: int
    reset: bool = False


@dataclass(frozen=True)
class Drip:
    """The body comes a byte at a time."""

    wait_s: float


@dataclass(frozen=True)
class Request:
    """What a store was asked."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case

    @property
    def range(self) -> str | None:
        return self.headers.get("range")


@dataclass
class FaultyStore:
    """A store of objects whose next answers go wrong as told, one fault a request."""

    objects: dict[str, bytes]  # by path: /bucket/key
    faults: list[Answer | Cut | Drip | None] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # sent along
    before: Callable[[FaultyStore], None] = lambda store: None  # called before each answer
    requests: list[Request] = field(default_factory=list)
    connections: set[object] = field(default_factory=set)

    @property
    def ranges(self) -> list[str | None]:
        """What was asked for, request by request."""
        return [request.range for request in self.requests]


class _FaultyHandler(BaseHTTPRequestHandler):
    store: FaultyStore
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        store = copy.copy(self.store)  # a test may be over before its requests are
        store.connections.add(self.client_address)
        headers = {name.lower(): value for name, value in self.headers.items()}
        store.requests.append(Request(self.command, self.path, headers))
        store.before(store)
        fault = store.faults.pop(0) if store.faults else None
        if isinstance(fault, Answer):
            self.answer(fault.status, fault.content())
        elif self.path.count("/") == 1:  # the bucket
            self.answer(200, b"")
        elif self.path not in store.objects:
            self.answer(404, Answer(404, "NoSuchKey").content())
        else:
            self.send(store.objects[self.path], headers, fault)

    do_HEAD = do_GET  # noqa: N815 -- the name http.server looks up

    def do_PUT(self):
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        is_new = self.path not in self.store.objects
        if self.headers.get("If-None-Match") == "*" and not is_new:
            self.store.requests.append(Request("PUT", self.path, {}))
            self.answer(412, Answer(412, "PreconditionFailed").content())
            return
        self.store.objects[self.path] = data
        self.do_GET()

    def send(self, whole, headers, fault):
        etag = f'"{hashlib.md5(whole).hexdigest()}"'
        if headers.get("if-match", etag).strip('"') != etag.strip('"'):
            self.answer(412, Answer(412, "PreconditionFailed").content())
            return
        status, extra, body = 200, {}, whole
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", "")):
            start, stop = int(asked[1]), min(int(asked[2]) + 1, len(whole))
            status, body = 206, whole[start:stop]
            extra = {"Content-Range": f"bytes {start}-{stop - 1}/{len(whole)}"}
        self.answer(status, body, {"ETag": etag} | extra | self.store.headers, fault)

    def answer(self, status, body, headers=None, fault=None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.send_body(body, fault)
        except ConnectionError:  # the client had enough
            self.close_connection = True

    def send_body(self, body, fault):
        if isinstance(fault, Cut):
            self.wfile.write(body[: fault.num_bytes])
            self.wfile.flush()
            self.close_connection = True
            if fault.reset:
                linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])  # on, for no time: a reset
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        elif isinstance(fault, Drip):
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(fault.wait_s)
        else:
            self.wfile.write(body)

    def log_message(self, format, *args):
        pass


@contextmanager
def faulty_store(store: FaultyStore) -> Iterator[str]:
    """The URL of the store."""
    with _serving(type("Handler", (_FaultyHandler,), {"store": store})) as url:
        yield url
