"""The audit trail: written once, whatever happens."""

import json
import os
import pwd
import socket
from datetime import UTC, datetime

import pytest

from fattr import storage
from fattr.runs import audit
from fattr.runs.audit import who, write_audit

STARTED = datetime(2026, 11, 23, 21, 17, 59, tzinfo=UTC)
NAME = "20261123T211759Z-run-1.json"


@pytest.fixture(params=["folder", "s3"])
def output(request, tmp_path):
    if request.param == "folder":
        return storage.canonical_uri(str(tmp_path))
    return storage.join(request.getfixturevalue("s3_bucket"), "tables")


def read(uri):
    return json.loads(storage.read_bytes(uri))


def test_what_was_done_is_written(output):
    uri = write_audit(output, "run-1", STARTED, {"who": who(), "purpose": "żółw", "n": 3})
    assert uri == storage.join(output, "_audit", NAME)
    assert read(uri) == {"who": who(), "purpose": "żółw", "n": 3}


def test_a_second_writing_of_the_same_changes_nothing(output):
    first = write_audit(output, "run-1", STARTED, {"n": 1, "m": 2})
    assert write_audit(output, "run-1", STARTED, {"m": 2, "n": 1}) == first
    assert len(list(storage.list_tree(output))) == 1


def test_what_is_there_is_never_written_over(output):
    contents = [{"n": n} for n in range(4)]
    uris = [write_audit(output, "run-1", STARTED, content) for content in contents]
    assert len(set(uris)) == 4
    assert [read(uri) for uri in uris] == contents
    assert uris[1] == storage.join(output, "_audit", "20261123T211800Z-run-1.json")


def test_text_that_is_no_unicode_is_no_error(output):
    assert read(write_audit(output, "run-1", STARTED, {"n": "a\udc80"})) == {"n": "a\udc80"}


def test_who_asks_the_system_not_the_environment(monkeypatch):
    monkeypatch.setenv("USER", "somebody-else")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    assert who() == {"user": pwd.getpwuid(os.getuid()).pw_name, "host": socket.gethostname()}


def test_a_user_without_a_name_is_a_number(monkeypatch):
    monkeypatch.setattr(audit.os, "getuid", lambda: 987_654)
    assert who()["user"] == "uid 987654"
