"""Local S3 servers: moto for what works, a canned one for what fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
