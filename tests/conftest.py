"""Fixtures that more than one test file uses."""

from __future__ import annotations

import uuid

import boto3
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


@pytest.fixture
def use_endpoint(monkeypatch, tmp_path):
    """A function that points the AWS environment, and nothing else, at a URL."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key-id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")

    def point_at(url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        storage._client_of_process.cache_clear()

    yield point_at
    storage._client_of_process.cache_clear()


@pytest.fixture
def s3_bucket(moto_endpoint, use_endpoint) -> str:
    """URI of a fresh, empty bucket."""
    use_endpoint(moto_endpoint)
    name = f"bucket-{uuid.uuid4().hex}"
    client = boto3.session.Session().client("s3")
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"
