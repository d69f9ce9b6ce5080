"""What is said of errors: enough to act on, and nothing that belongs to somebody."""

from __future__ import annotations

import os

import pytest
from pyarrow.fs import LocalFileSystem, S3FileSystem
from s3_server import Answer, canned_server

from fattr.storage import words_of


def arrow_error(answer: Answer, act: str) -> OSError:
    """What pyarrow raises when a store answers so."""
    with canned_server(answer) as url:
        scheme, _, host = url.partition("://")
        files = S3FileSystem(
            access_key="drill-key", secret_key="x", scheme=scheme, endpoint_override=host
        )
        with pytest.raises(OSError, match="AWS Error") as caught:
            getattr(files, act)("bucket/key")
    return caught.value


@pytest.mark.parametrize(
    ("answer", "act", "said"),
    [
        (Answer(400, "ExpiredToken"), "open_output_stream", "the AWS credentials expired: renew"),
        (Answer(403, "AccessDenied"), "open_output_stream", "ACCESS_DENIED"),
        (Answer(409, "OperationAborted"), "open_output_stream", "OperationAborted (HTTP 409)"),
        (Answer(400, "ExpiredToken"), "open_input_file", "HTTP 400, as where the AWS credentials"),
    ],
)
def test_of_an_answer_of_s3_its_name_is_said(answer, act, said):
    error = arrow_error(answer, act)
    assert words_of(error).startswith(said)
    assert not [word for word in ("127.0.0.1", "drill-key", "\n") if word in words_of(error)]


def test_the_system_has_words_of_its_own():
    assert words_of(OSError(28, os.strerror(28), "/a")) == "No space left on device"
    with pytest.raises(OSError, match="secret") as caught:
        LocalFileSystem().open_input_file("/nowhere/secret")
    assert words_of(caught.value) == "No such file or directory"
    said = words_of(ConnectionResetError("http://user@host"))
    assert said == "the storage failed (ConnectionResetError)"
