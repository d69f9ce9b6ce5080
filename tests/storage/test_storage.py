"""Storage: names, listings and errors, on a disk and on a local S3 server."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from s3_server import Answer, canned_server

from fattr import storage
from fattr.errors import RunError, StorageError, UsageError
from fattr.records import Status
from fattr.storage import FileEntry, arrow, s3

ODD_NAMES = [
    "a b.jpg",
    "100%.jpg",
    "100%25.jpg",
    "x#1.jpg",
    "q?.jpg",
    "zoë.jpg",
    "顔.png",
]
CLIENT_OF_PROCESS = s3._client_of_process  # the fixture s3_bucket puts another in its place


def put(root: str, *names: str) -> None:
    for name in names:
        storage.write_bytes(storage.join(root, name), name.encode())


def names_below(root: str) -> list[str]:
    return [entry.uri.removeprefix(root + "/") for entry in storage.list_files(root)]


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path) -> str:
    """An empty place, on disk and in S3."""
    if request.param == "local":
        return storage.canonical_uri(str(tmp_path / "root"))
    return request.getfixturevalue("s3_bucket") + "/root"


class TestNames:
    @pytest.mark.parametrize(
        ("text", "uri"),
        [
            ("/a/b.jpg", "file:///a/b.jpg"),
            ("//a/./c/../b/", "file:///a/b"),
            ("/", "file:///"),
            ("/a b#%?.jpg", "file:///a%20b%23%25%3F.jpg"),
            ("/dt=1/run=a,b;c@d:e+f~g", "file:///dt=1/run=a,b;c@d:e+f~g"),
            ("/é", "file:///%C3%A9"),
            ("/\udcff.jpg", "file:///%FF.jpg"),
            ("file:///a%20b.jpg", "file:///a%20b.jpg"),
            ("file:///a b.jpg", "file:///a%20b.jpg"),
            ("file:///100%.jpg", "file:///100%25.jpg"),
            ("file://localhost/a", "file:///a"),
            ("FILE:///a", "file:///a"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("S3://bucket/a//b/../ %20#?é/", "s3://bucket/a//b/../ %20#?é"),
        ],
    )
    def test_canonical(self, text, uri):
        assert storage.canonical_uri(text) == uri
        assert storage.canonical_uri(uri) == uri

    def test_relative(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        assert storage.canonical_uri("a b") == (tmp_path / "a b").as_uri()

    @pytest.mark.parametrize(
        ("text", "beside", "uri"),
        [
            ("a%20.jpg", "file:///x%20y/list.txt", "file:///x%20y/a%2520.jpg"),
            ("../a.jpg", "/x/y/list.txt", "file:///x/a.jpg"),
            ("/a.jpg", "/x/y/list.txt", "file:///a.jpg"),
            ("../a b.jpg", "s3://bucket/x/y/list.txt", "s3://bucket/x/a b.jpg"),
            ("a.jpg", "s3://bucket/list.txt", "s3://bucket/a.jpg"),
            ("/a.jpg", "s3://bucket/list.txt", "file:///a.jpg"),
            ("s3://other/a.jpg", "/x/list.txt", "s3://other/a.jpg"),
        ],
    )
    def test_beside(self, text, beside, uri):
        assert storage.canonical_uri(text, beside=beside) == uri

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "/a\0b",
            "file:///a%00b",
            "file://host/a",
            "s3://",
            "s3:///key",
            "s3://b ucket/key",
            "s3://bucket/\udcff",
            "gs://bucket/key",
            "https://user:hush@host/a.jpg?X-Amz-Signature=hush#hush",
            "s3://KEY:hush@bucket/key",
            "file://user:hush@host/a",
        ],
    )
    def test_refused_without_secrets(self, text):
        with pytest.raises(UsageError, match=r"expected|rename") as error:
            storage.canonical_uri(text)
        assert "hush" not in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("uri", "parts", "joined"),
        [
            ("s3://bucket/", ("a", "b c%"), "s3://bucket/a/b c%"),
            ("/x y", ("dt=1/part", "a%"), "file:///x%20y/dt=1/part/a%25"),
            ("/", ("a",), "file:///a"),
        ],
    )
    def test_join(self, uri, parts, joined):
        assert storage.join(uri, *parts) == joined

    @pytest.mark.parametrize("folder", ["/x y", "/", "s3://b-b/in", "s3://b-b"])
    @pytest.mark.parametrize("path", ["a.jpg", "100% b/ü#1&c.jpg"])
    def test_the_path_below_a_folder_is_plain_and_the_same_everywhere(self, folder, path):
        assert storage.relative_path(storage.join(folder, path), folder) == path

    @pytest.mark.parametrize("uri", ["/x", "/xy/a", "s3://b-b/x/a"])
    def test_a_path_elsewhere_is_not_below(self, uri):
        with pytest.raises(ValueError, match="is not below file:///x/"):
            storage.relative_path(uri, "/x")

    @pytest.mark.parametrize(
        ("child", "parent", "expected"),
        [
            ("s3://b-b/in", "s3://b-b/in/", True),
            ("s3://b-b/in/out", "s3://b-b/in", True),
            ("s3://b-b/in2", "s3://b-b/in", False),
            ("s3://b-b/in", "s3://b-b", True),
            ("s3://b-b", "s3://b-b/in", False),
            ("s3://c-c/in", "s3://b-b/in", False),
            ("/in/../in/out", "file:///in", True),
            ("/in2", "/in", False),
            ("/in", "s3://in-in", False),
        ],
    )
    def test_is_within(self, child, parent, expected):
        assert storage.is_within(child, parent) is expected

    def test_is_within_follows_links(self, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "link").symlink_to("photos")
        assert storage.is_within(str(tmp_path / "link" / "new"), str(tmp_path / "photos"))


class TestFiles:
    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_round_trip(self, root, name):
        put(root, name)
        (entry,) = storage.list_files(root)
        assert storage.read_bytes(entry.uri) == name.encode()
        assert entry.size_bytes == len(name.encode())

    def test_undecodable_name(self, tmp_path):
        name = os.fsdecode(b"\xff\xfe\n.jpg")
        (tmp_path / name).write_bytes(b"x")
        (entry,) = storage.list_files(str(tmp_path))
        assert entry.uri.endswith("/%FF%FE%0A.jpg")
        assert storage.read_bytes(entry.uri) == b"x"

    def test_exists(self, root):
        uri = storage.join(root, "a", "b")
        assert not storage.exists(uri)
        storage.write_bytes(uri, b"")
        assert storage.exists(uri)
        assert not storage.exists(root)
        assert storage.read_bytes(uri) == b""

    def test_replaces(self, root):
        uri = storage.join(root, "a")
        for data in (b"one", b"two"):
            storage.write_bytes(uri, data)
            assert storage.read_bytes(uri) == data
        assert len(list(storage.list_tree(root))) == 1

    def test_failed_write_leaves_nothing(self, tmp_path, monkeypatch):
        def disk_full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", disk_full)
        with pytest.raises(StorageError, match="unavailable: No space left"):
            storage.write_bytes(str(tmp_path / "a"), b"x")
        assert list(tmp_path.iterdir()) == []

    def test_missing(self, root):
        with pytest.raises(StorageError) as error:
            storage.read_bytes(storage.join(root, "none.jpg"))
        assert error.value.status == Status.MISSING
        assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)

    def test_bucket_is_no_object(self):
        with pytest.raises(StorageError, match="names a bucket"):
            storage.read_bytes("s3://bucket")

    def test_max_bytes(self, root):
        uri = storage.join(root, "a")
        storage.write_bytes(uri, b"12345")
        assert storage.read_bytes(uri, max_bytes=5) == b"12345"
        with pytest.raises(StorageError, match="too_large: has 5 bytes, at most 4"):
            storage.read_bytes(uri, max_bytes=4)

    def test_not_regular(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for path in (tmp_path, tmp_path / "pipe"):
            with pytest.raises(StorageError, match="unavailable: is not a regular file"):
                storage.read_bytes(str(path))

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_denied(self, tmp_path):
        (tmp_path / "a").write_bytes(b"x")
        (tmp_path / "a").chmod(0)
        with pytest.raises(StorageError, match="denied"):
            storage.read_bytes(str(tmp_path / "a"))

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (PermissionError(errno.EACCES, "Permission denied"), Status.DENIED),
            (FileNotFoundError(errno.ENOENT, "No such file"), Status.MISSING),
            (OSError(errno.EIO, "Input/output error"), Status.UNAVAILABLE),
            (OSError(errno.ESTALE, "Stale file handle"), Status.UNAVAILABLE),
            (TimeoutError(errno.ETIMEDOUT, "timed out"), Status.TIMEOUT),
            (OSError("no number"), Status.UNAVAILABLE),
        ],
    )
    def test_local_errors(self, tmp_path, monkeypatch, error, status):
        def fail(*_):
            raise error

        (tmp_path / "a").write_bytes(b"x")
        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(StorageError) as caught:
            storage.read_bytes(str(tmp_path / "a"))
        assert caught.value.status == status

    def test_many_threads_share_one_client(self, s3_bucket, monkeypatch):
        put(s3_bucket, "a")
        monkeypatch.setattr(s3, "_client_of_process", CLIENT_OF_PROCESS)
        CLIENT_OF_PROCESS.cache_clear()
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(storage.read_bytes, [f"{s3_bucket}/a"] * 64))
        assert found == [b"a"] * 64
        assert CLIENT_OF_PROCESS.cache_info().misses == 1
        CLIENT_OF_PROCESS.cache_clear()


class TestListing:
    def test_empty(self, root):
        with pytest.raises(UsageError, match="check"):
            list(storage.list_files(root))
        assert list(storage.list_tree(root)) == []

    def test_only_hidden(self, root):
        put(root, ".a", "_b/c", "d/.e/f")
        with pytest.raises(UsageError, match=r"no files under .*root: expected"):
            list(storage.list_files(root))
        assert len(list(storage.list_tree(root))) == 3

    def test_order_and_hidden(self, root):
        put(root, "b", "a/z", "a-b", "a.jpg", "_x", "c/_runs/x", ".d/x", "a/b/c", "é")
        found = names_below(root)
        assert found == sorted(found)
        assert set(found) - {"é", "%C3%A9"} == {"a-b", "a.jpg", "a/b/c", "a/z", "b"}
        assert len(found) == 6

    def test_a_folder_is_not_a_name_prefix(self, root):
        put(root, "photos/a", "photos2/b")
        for spelling in ("photos", "photos/"):
            entries = storage.list_files(f"{root}/{spelling}")
            assert [entry.uri for entry in entries] == [f"{root}/photos/a"]

    def test_hidden_root(self, root):
        put(root, "_staging/.x/a")
        assert names_below(f"{root}/_staging/.x") == ["a"]

    def test_one_file(self, root):
        put(root, "_a.jpg")
        (entry,) = storage.list_files(f"{root}/_a.jpg")
        assert (entry.uri, entry.size_bytes) == (f"{root}/_a.jpg", 6)

    def test_etags(self, root, tmp_path):
        put(root, "a")
        (entry,) = storage.list_files(root)
        if root.startswith("s3://"):
            assert entry.etag == "0cc175b9c0f1b6a831c399e269772661"  # MD5 of b"a"
        else:
            assert entry.etag == f"{(tmp_path / 'root' / 'a').stat().st_mtime_ns}-1"

    def test_links(self, tmp_path):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "x.jpg").write_bytes(b"x")
        (tmp_path / "a" / "up").symlink_to("..")
        (tmp_path / "a" / "self").symlink_to("self")
        (tmp_path / "b").symlink_to("a")
        (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
        os.mkfifo(tmp_path / "pipe")
        root = storage.canonical_uri(str(tmp_path))
        assert names_below(root) == ["a/self", "a/x.jpg", "b/self", "b/x.jpg", "gone.jpg"]
        dangling = FileEntry(f"{root}/gone.jpg")
        assert dangling in storage.list_files(root)
        with pytest.raises(StorageError, match="missing"):
            storage.read_bytes(dangling.uri)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(UsageError, match=r"cannot list file:///.*/no: No such file.*check"):
            list(storage.list_files(str(tmp_path / "no")))

    def test_denied_folder(self, tmp_path, monkeypatch):
        (tmp_path / "sub").mkdir()
        scan = os.scandir

        def deny(folder):
            if str(folder).endswith("sub"):
                raise PermissionError(errno.EACCES, "Permission denied")
            return scan(folder)

        monkeypatch.setattr(os, "scandir", deny)
        with pytest.raises(UsageError, match=r"cannot list .*/sub: Permission denied; change"):
            list(storage.list_files(str(tmp_path)))

    def test_no_bucket(self, s3_bucket):
        with pytest.raises(UsageError, match=r"list s3://not-there: NoSuchBucket .*check bucket"):
            list(storage.list_files("s3://not-there"))

    def test_more_than_one_page_and_markers(self, s3_bucket):
        bucket = s3_bucket.removeprefix("s3://")
        store = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # 1005 requests would take 10 s
        for n in range(1005):
            store.put_object(bucket, f"p/{n:04d}", b"")
        store.put_object(bucket, "p/marker/", b"")
        assert names_below(f"{s3_bucket}/p") == [f"{n:04d}" for n in range(1005)]
        storage.delete_tree(f"{s3_bucket}/p")
        assert list(storage.list_tree(f"{s3_bucket}/p")) == []

    def test_streams(self, s3_bucket):
        put(s3_bucket, "a", "b")
        listing = storage.list_files(s3_bucket)
        assert next(listing).uri == f"{s3_bucket}/a"
        listing.close()


class TestTrees:
    def test_delete(self, root):
        put(root, "a/b", "a/.c/d", "ab")
        storage.delete_tree(f"{root}/none")
        storage.delete_tree(f"{root}/a")
        assert names_below(root) == ["ab"]

    @pytest.mark.parametrize("uri", ["/", "s3://bucket"])
    def test_never_a_root(self, uri):
        with pytest.raises(ValueError, match="refusing"):
            storage.delete_tree(uri)

    def test_writable(self, root):
        storage.check_writable(root)
        assert list(storage.list_tree(root)) == []
        put(root, "a")
        storage.check_writable(root)
        assert len(list(storage.list_tree(root))) == 1

    def test_not_writable(self, tmp_path, s3_bucket):
        (tmp_path / "file").write_bytes(b"")
        for uri in (str(tmp_path / "file"), str(tmp_path / "file" / "out")):
            with pytest.raises(UsageError, match=r"cannot write to .*Not a directory; check"):
                storage.check_writable(uri)
        with pytest.raises(UsageError, match="cannot write to s3://not-there/out: NoSuchBucket"):
            storage.check_writable("s3://not-there/out")

    def test_parquet(self, root):
        put(root, "a")  # on disk, makes the folder
        table = pa.table({"x": [1, 2, 3]})
        files, path = storage.filesystem(storage.join(root, "t é%.parquet"))
        pq.write_table(table, path, filesystem=files)
        assert pq.read_table(path, filesystem=files) == table
        assert names_below(root) == ["a", storage.join(root, "t é%.parquet")[len(root) + 1 :]]


class TestFailingStore:
    @pytest.mark.parametrize(
        ("answer", "status"),
        [
            (Answer(404, "NoSuchKey"), Status.MISSING),
            (Answer(404, "NoSuchBucket"), Status.MISSING),
            (Answer(403, "AccessDenied"), Status.DENIED),
            (Answer(403, "InvalidObjectState"), Status.UNAVAILABLE),
            (Answer(503, "SlowDown"), Status.UNAVAILABLE),
            (Answer(500, "InternalError"), Status.UNAVAILABLE),
            (Answer(400, "RequestTimeout"), Status.TIMEOUT),
            (Answer(200, body=b"half", claimed_bytes=8), Status.UNAVAILABLE),
            (Answer(200, body=b"late", delay_s=0.5), Status.TIMEOUT),
        ],
    )
    def test_read(self, use_endpoint, monkeypatch, answer, status):
        monkeypatch.setattr(s3, "READ_TIMEOUT_S", 0.2)
        with canned_server(answer) as url:
            use_endpoint(url.replace("//", "//user:hush@"))
            with pytest.raises(StorageError) as error:
                storage.read_bytes("s3://bucket/a.jpg")
        assert error.value.status == status
        assert answer.code in error.value.reason
        assert not any(secret in str(error.value) for secret in ("hush", "test-", "KEY-IN-BODY"))

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            (Answer(400, "ExpiredToken"), RunError),
            (Answer(403, "InvalidAccessKeyId"), UsageError),
            (Answer(403, "SignatureDoesNotMatch"), UsageError),
        ],
    )
    def test_bad_credentials_are_no_ones_image(self, use_endpoint, answer, kind):
        with canned_server(answer) as url:
            use_endpoint(url)
            with pytest.raises(kind, match=r"credentials for s3://bucket/a.jpg"):
                storage.read_bytes("s3://bucket/a.jpg")

    def test_denied_by_name(self, use_endpoint):
        with canned_server(Answer(403, "AccessDenied")) as url:
            use_endpoint(url)
            with pytest.raises(UsageError, match="the credentials need s3:ListBucket"):
                list(storage.list_files("s3://bucket/photos"))
            with pytest.raises(UsageError, match="the credentials need s3:PutObject"):
                storage.check_writable("s3://bucket/photos")
            with pytest.raises(StorageError, match="denied"):
                storage.exists("s3://bucket/photos")
            with pytest.raises(StorageError, match="denied"):
                storage.write_bytes("s3://bucket/photos", b"")

    def test_outage_is_not_the_users_fault(self, use_endpoint):
        with canned_server(Answer(503, "SlowDown")) as url:
            use_endpoint(url)
            with pytest.raises(StorageError, match="unavailable: SlowDown"):
                list(storage.list_files("s3://bucket/photos"))

    def test_no_server(self, use_endpoint):
        with canned_server(Answer(200)) as url:
            pass
        use_endpoint(url.replace("//", "//user:hush@"))
        with pytest.raises(StorageError, match="unavailable: EndpointConnectionError") as error:
            storage.read_bytes("s3://bucket/a.jpg")
        assert "hush" not in str(error.value)

    def test_no_credentials(self, use_endpoint, monkeypatch):
        use_endpoint("http://127.0.0.1:1")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(UsageError, match="set AWS_ACCESS_KEY_ID and"):
            storage.read_bytes("s3://bucket/a.jpg")

    def test_no_profile(self, use_endpoint, monkeypatch):
        use_endpoint("http://127.0.0.1:1")
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(UsageError, match="no usable AWS credentials for s3://bucket"):
            next(storage.list_files("s3://bucket"))

    def test_bad_endpoint(self, use_endpoint):
        use_endpoint("user:hush@host")
        with pytest.raises(UsageError, match="expected AWS_ENDPOINT_URL like") as error:
            storage.read_bytes("s3://bucket/a.jpg")
        assert "hush" not in str(error.value)

    def test_store_that_refuses_pyarrow(self, s3_bucket, monkeypatch):
        class Refusing:
            def open_output_stream(self, _):
                raise OSError("HTTP status 411")

        monkeypatch.setattr(storage, "filesystem", lambda uri: (Refusing(), uri))
        with pytest.raises(UsageError, match="set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"):
            storage.check_writable(f"{s3_bucket}/out")


def test_aws_itself_is_found_by_region(use_endpoint, monkeypatch):
    use_endpoint("")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    assert arrow.endpoint(s3.client().meta.endpoint_url) == ("https", None)
