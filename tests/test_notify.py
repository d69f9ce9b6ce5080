"""Telling somebody that a run ended: what arrives, and that a failure stays one quiet warning."""

import json
import logging
import socket
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fattr.errors import UsageError
from fattr.notify import check_notify, notify

SUMMARY = {"run_id": "20261123T211700Z-3f9c1a", "exit_code": 0, "reason": "żółw \udc80"}


@contextmanager
def web_server(status=200, headers=(), delay_s=0.0):
    """URL of a server, and the requests it got as (path, content type, body)."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            requests.append((self.path, self.headers["Content-Type"], body))
            time.sleep(delay_s)
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            requests.append((self.path, "GET", b""))
            self.send_error(404)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", requests
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.INFO, "fattr.notify")
    return lambda: [record.getMessage() for record in caplog.records]


def test_nobody_to_tell(warnings):
    notify(SUMMARY, url=None, command=None)
    assert warnings() == []


def test_the_summary_is_posted_as_json(warnings):
    with web_server(204) as (url, requests):
        notify(SUMMARY, url=f"{url}/hook?token=abc", command=None)
    [(path, kind, body)] = requests
    assert (path, kind) == ("/hook?token=abc", "application/json")
    assert json.loads(body) == SUMMARY
    assert warnings() == []


@pytest.mark.parametrize(
    ("status", "said"),
    [(404, "HTTP 404"), (500, "HTTP 500"), (302, "HTTP 302, a redirect")],
)
def test_a_refusal_is_a_warning_without_the_path(status, said, warnings):
    with web_server() as (other, elsewhere):
        headers = [("Location", f"{other}/stolen")]
        with web_server(status, headers) as (url, _):
            notify(SUMMARY, url=f"{url}/SECRET?key=SECRET", command=None)
    assert warnings() == [f"127.0.0.1 was not told that the run ended: {said}"]
    assert elsewhere == []  # a redirect is not followed


def test_a_server_that_trickles_does_not_hold_up_the_run(warnings):
    listener = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def trickle():
        connection, _ = listener.accept()
        with connection:
            while not done.wait(0.05):
                connection.sendall(b"H")

    thread = threading.Thread(target=trickle)
    thread.start()
    started = time.monotonic()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/SECRET"
    notify(SUMMARY, url=url, command=None, url_timeout_s=0.4)
    assert time.monotonic() - started < 2
    assert warnings() == ["127.0.0.1 was not told that the run ended: no answer within 0.4 s"]
    done.set()
    thread.join()
    listener.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1/SECRET", "127.0.0.1 was not told"),
        ("file:///etc/passwd", "no host was not told that the run ended: no web address"),
        ("http://[SECRET/", "no host was not told that the run ended: no web address"),
        ("http://127.0.0.1:1/a SECRET", "127.0.0.1 was not told that the run ended: InvalidURL"),
        ("http://user:SECRET@127.0.0.1:1/", "127.0.0.1 was not told that the run ended: no web"),
    ],
)
def test_an_address_where_nobody_listens(url, said, warnings):
    notify(SUMMARY, url=url, command=None)
    [warning] = warnings()
    assert warning.startswith(said)
    assert "SECRET" not in warning


def test_a_command_gets_the_summary_on_its_standard_input(tmp_path, warnings):
    script = tmp_path / "tell me.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write(sys.stdin.read())")
    told = tmp_path / "told $HOME"
    notify(SUMMARY, url=None, command=f"{sys.executable} '{script}' '{told}'")
    assert json.loads(told.read_text()) == SUMMARY
    assert warnings() == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-program SECRET", "no-such-program was not told that the run ended: No such"),
        (f"{sys.executable} -c 'exit(3)' SECRET", "python"),
        ("false", "false was not told that the run ended: exit code 1"),
        ("sleep 30", "sleep was not told that the run ended: not done within 0.3 s"),
        ("sh -c 'not closed", "sh was not told that the run ended: no command"),
        ("", "no command was not told that the run ended: no command"),
    ],
)
def test_a_command_that_fails_is_a_warning_without_its_arguments(command, said, warnings):
    notify(SUMMARY, url=None, command=command, command_timeout_s=0.3)
    [warning] = warnings()
    assert said in warning
    assert "SECRET" not in warning


def test_both_are_told_though_one_fails(tmp_path, warnings):
    told = tmp_path / "told"
    notify(SUMMARY, url="http://127.0.0.1:1/", command=f"tee {told}")
    assert json.loads(told.read_text()) == SUMMARY
    assert len(warnings()) == 1


@pytest.mark.parametrize(
    "url",
    ["", "example.org/hook", "ftp://example.org/x", "http://", "https://me:SECRET@example.org/",
     "http://example.org:99999/SECRET", "http://[SECRET"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused_before_the_work(url):
    with pytest.raises(UsageError, match="--notify-url is no web address") as refusal:
        check_notify(url=url, command=None)
    assert "SECRET" not in str(refusal.value)


@pytest.mark.parametrize("command", ["", "  ", "no-such-program SECRET", "echo 'SECRET"])
def test_a_command_that_is_none_is_refused_before_the_work(command):
    with pytest.raises(UsageError, match="--notify-command") as refusal:
        check_notify(url=None, command=command)
    assert "SECRET" not in str(refusal.value)


def test_what_can_be_told_is_let_through():
    check_notify(url=None, command=None)
    check_notify(url="https://hooks.example.org:8443/a/b?c=d", command="true --x")
