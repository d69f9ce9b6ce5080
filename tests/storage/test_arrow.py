"""pyarrow's side of S3: the same credentials, endpoint and patience as boto3's."""

from __future__ import annotations

import pickle

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileSelector, PyFileSystem, S3FileSystem
from s3_server import Answer, FaultyStore, canned_server, faulty_store

from fattr import storage
from fattr.errors import RunError, UsageError
from fattr.storage import ReadOptions, arrow, s3

TABLE = pa.table({"x": [1, 2, 3]})


@pytest.fixture
def role_profile(s3_bucket, use_endpoint, moto_endpoint, tmp_path, monkeypatch):
    """URI of a bucket, reached by a profile that assumes a role with another profile's keys."""
    (tmp_path / "config").write_text(
        "[profile reader]\nrole_arn = arn:aws:iam::123456789012:role/reader\n"
        "source_profile = base\nregion = us-east-1\n"
    )
    (tmp_path / "credentials").write_text(
        "[base]\naws_access_key_id = base-key-id\naws_secret_access_key = base-secret\n"
    )
    monkeypatch.undo()  # the client of the fixture s3_bucket
    use_endpoint(moto_endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "reader")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return s3_bucket


class TestAssumedRole:
    def test_both_libraries_use_it(self, role_profile):
        uri = f"{role_profile}/t/a.parquet"
        files, path = storage.filesystem(uri)
        pq.write_table(TABLE, path, filesystem=files)
        assert pq.read_table(path, filesystem=files) == TABLE
        assert pq.read_table(path.rpartition("/")[0], filesystem=files) == TABLE
        assert storage.read_bytes(uri)[:4] == b"PAR1"
        assert s3.login(uri).method == "assume-role"

    def test_renewed_credentials_are_used_and_never_pickled(self, role_profile, monkeypatch):
        files, path = storage.filesystem(f"{role_profile}/a")
        used = []

        class Spy(S3FileSystem):
            def __init__(self, **given):
                used.append(given["access_key"])
                super().__init__(**given)

        monkeypatch.setattr(arrow, "S3FileSystem", Spy)
        for key_id in ("one", "two"):
            monkeypatch.setattr(
                s3, "login", lambda _, key_id=key_id: s3.Login("assume-role", key_id, "hush", "t")
            )
            with files.open_output_stream(path) as stream:
                stream.write(b"x")
        assert used == ["one", "two"]
        pickled = pickle.dumps(files)
        assert b"hush" not in pickled
        assert pickle.loads(pickled) == files
        assert "hush" not in repr(s3.login("s3://bucket"))

    def test_all_that_a_file_system_does(self, role_profile):
        files, root = storage.filesystem(f"{role_profile}/dir")
        assert isinstance(files, PyFileSystem)
        with files.open_output_stream(f"{root}/a") as stream:
            stream.write(b"abc")
        files.copy_file(f"{root}/a", f"{root}/b")
        files.move(f"{root}/b", f"{root}/c")
        found = files.get_file_info(FileSelector(root, recursive=True))
        assert sorted((f.base_name, f.size) for f in found) == [("a", 3), ("c", 3)]
        with files.open_input_stream(f"{root}/c") as stream:
            assert stream.read() == b"abc"
        with files.open_input_file(f"{root}/c") as file:
            assert file.size() == 3
        files.create_dir(f"{root}/sub")
        files.delete_file(f"{root}/c")
        files.delete_dir(root)
        assert files.get_file_info(f"{root}/a").type.name == "NotFound"

    @pytest.mark.parametrize("code", ["AccessDenied", "ValidationError"])
    def test_a_role_that_may_not_be_assumed(self, role_profile, monkeypatch, code):
        said = f"<ErrorResponse><Error><Code>{code}</Code></Error></ErrorResponse>"
        with canned_server(Answer(403, body=said.encode())) as url:
            monkeypatch.setenv("AWS_ENDPOINT_URL", url)
            with pytest.raises(
                UsageError, match=rf"role for s3://bucket/a cannot be assumed \({code}"
            ):
                storage.read_bytes("s3://bucket/a")


def test_a_sign_in_that_expired(use_endpoint, tmp_path, monkeypatch):
    use_endpoint("http://127.0.0.1:1")
    (tmp_path / "config").write_text(
        "[profile people]\nsso_start_url = https://example.com/start\nsso_region = us-east-1\n"
        "sso_account_id = 123456789012\nsso_role_name = reader\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "people")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for call in (storage.read_bytes, storage.filesystem):
        with pytest.raises(RunError, match="sign in"):
            call("s3://bucket/a")


def test_keys_of_the_environment_are_left_to_pyarrow(s3_bucket):
    files, _ = storage.filesystem(f"{s3_bucket}/a")
    assert type(files) is S3FileSystem
    assert b"test-secret" not in pickle.dumps(files)


def test_what_ray_writes_makes_no_folder(s3_bucket, moto_client):
    """A role may have rights on a prefix alone: no folder is made."""
    files, path = storage.folderless(f"{s3_bucket}/team/staging")
    files = pickle.loads(pickle.dumps(files))  # as another process gets it
    files.create_dir(path, recursive=True)
    with files.open_output_stream(f"{path}/a.pending") as file:
        file.write(b"rows")
    files.move(f"{path}/a.pending", f"{path}/a")
    assert files.open_input_file(f"{path}/a").read() == b"rows"
    bucket = s3_bucket.removeprefix("s3://")
    keys = [entry["Key"] for entry in moto_client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert "team/staging/a" in keys
    assert "team/" not in keys


@pytest.mark.parametrize("anonymous", [False, True])
def test_pyarrow_outlasts_a_busy_store_and_signs_if_asked(use_endpoint, anonymous):
    busy = Answer(503, "SlowDown")
    data = bytes(range(256)) * 40
    store = FaultyStore({"/bucket/a": data}, [busy, None, busy, None, None, busy])
    with faulty_store(store) as url:
        use_endpoint(url)
        files, path = storage.filesystem(
            "s3://bucket/a", ReadOptions(anonymous=anonymous, attempts=3)
        )
        with files.open_input_file(path) as file:
            assert file.read() == data
            assert file.read_at(1_000, 2_000) == data[2_000:3_000]
    assert len(store.requests) == 7
    for request in store.requests:
        assert ("authorization" in request.headers) == (not anonymous)


def test_a_bucket_elsewhere(use_endpoint):
    store = FaultyStore({}, [Answer(301, "PermanentRedirect")])
    with faulty_store(store) as url:
        use_endpoint(url)
        files, _ = storage.filesystem("s3://bucket/a")
    assert files.region == boto3.session.Session().region_name


def test_certificates_of_the_environment(use_endpoint, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/corporate.pem")
    use_endpoint("http://127.0.0.1:1")
    assert s3.ca_bundle("s3://bucket") == "/etc/corporate.pem"
