"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import uuid

import pytest

from fattr import storage


@pytest.fixture(scope="session")
def moto_endpoint():
    """URL of an S3 server in a thread of this process."""
    from moto.server import ThreadedMotoServer  # a second to import

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def moto_client(moto_endpoint):
    """One client for all tests: making one takes 0.2 s."""
    with pytest.MonkeyPatch.context() as patch:
        set_aws_environment(patch, moto_endpoint)
        return storage._client_of_process.__wrapped__(0)


@pytest.fixture
def use_endpoint(monkeypatch):
    """A function that points the AWS environment, and a new client, at a URL."""
    forget_client = storage._client_of_process.cache_clear

    def point_at(url: str) -> None:
        set_aws_environment(monkeypatch, url)
        forget_client()

    yield point_at
    forget_client()


@pytest.fixture
def s3_bucket(moto_endpoint, moto_client, monkeypatch) -> str:
    """URI of a fresh, empty bucket."""
    set_aws_environment(monkeypatch, moto_endpoint)
    monkeypatch.setattr(storage, "_client_of_process", lambda _: moto_client)
    name = f"bucket-{uuid.uuid4().hex}"
    moto_client.create_bucket(Bucket=name)
    return f"s3://{name}"


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
