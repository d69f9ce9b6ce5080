"""What a run has to do, against the same rules over a dictionary."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fattr import storage
from fattr.errors import RunError, StorageError, UsageError
from fattr.increment.plan import (
    DELETED_SCHEMA,
    Done,
    Increment,
    Room,
    Wanted,
    plan_increment,
    plan_retry,
)
from fattr.published.catalog import KNOWN_SCHEMA, REPLACED_SCHEMA, replaced_rows
from fattr.runs.manifest import MANIFEST_SCHEMA, UriNames, image_id, read_manifest
from fattr.runs.run import Run
from fattr.storage import FileEntry

NAMES = UriNames()
NEXT_RUN = "20261123T211700Z-000009"
RUN_IDS = ("20261101T000000Z-000001", "20261102T000000Z-000002", "20261103T000000Z-000003")


@dataclass(frozen=True)
class Row:
    """A row of a finished run."""

    image_id: int
    image_uri: str
    etag: str | None = "e0"
    size_bytes: int | None = 7
    status: str = "ok"
    run_id: str = RUN_IDS[0]


def row(uri: str, **values: object) -> Row:
    return Row(**{"image_id": image_id(uri), "image_uri": uri} | values)


def reader(rows: Sequence[Row], *, batch_rows: int = 3) -> pa.RecordBatchReader:
    columns = {name: [getattr(r, name) for r in rows] for name in KNOWN_SCHEMA.names}
    table = pa.table(columns, schema=KNOWN_SCHEMA)
    return pa.RecordBatchReader.from_batches(
        KNOWN_SCHEMA, table.to_batches(max_chunksize=batch_rows)
    )


def pairs(rows: Sequence[Row]) -> list[pa.RecordBatch]:
    found = {"run_id": [r.run_id for r in rows], "image_id": [r.image_id for r in rows]}
    return pa.table(found, schema=REPLACED_SCHEMA).to_batches(max_chunksize=3)


def ids(rows: Sequence[Row]) -> pa.Table:
    return pa.table({"image_id": pa.array([r.image_id for r in rows], pa.int64())})


class Planner:
    """One OUTPUT with what is done there."""

    def __init__(self, folder, output=None):
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.run = Run(output or storage.canonical_uri(str(folder / "output")), NEXT_RUN)

    def room(self, memory_limit_mb=256) -> Room:
        return Room(scratch=self.scratch, memory_limit_mb=memory_limit_mb)

    def increment(
        self,
        entries,
        known=None,
        replaced=(),
        *,
        names=NAMES,
        forgotten=None,
        check=lambda: None,
        on_listed=None,
        **wanted,
    ) -> Increment:
        done = Done(
            known=None if known is None else reader(known),
            replaced=pairs(replaced),
            forgotten=forgotten,
        )
        return plan_increment(
            entries,
            self.run,
            names=names,
            done=done,
            wanted=Wanted(**wanted),
            room=self.room(),
            on_listed=on_listed,
            check=check,
        )

    def retry(self, statuses, known, replaced=(), *, forgotten=None, **options) -> Increment:
        done = Done(known=reader(known), replaced=pairs(replaced), forgotten=forgotten)
        return plan_retry(self.run, done=done, statuses=statuses, room=self.room(), **options)

    def table(self, name: str) -> pa.Table:
        return pq.read_table(pa.BufferReader(storage.read_bytes(self.run.file(name))))

    @property
    def manifest(self) -> pa.Table:
        return pa.Table.from_batches(read_manifest(self.run.manifest, 100), MANIFEST_SCHEMA)

    @property
    def to_do(self) -> list[str]:
        return self.manifest.column("image_uri").to_pylist()

    @property
    def replaced(self) -> list[tuple[str, int]]:
        return [tuple(r.values()) for r in self.table("replaced.parquet").to_pylist()]


@pytest.fixture
def planner(tmp_path) -> Planner:
    return Planner(tmp_path)


@pytest.fixture(params=["local", "s3"])
def planner_anywhere(request, tmp_path) -> Planner:
    bucket = request.getfixturevalue("s3_bucket") if request.param == "s3" else None
    return Planner(tmp_path, bucket and f"{bucket}/tables")


# Against brute force


def uri_of(number: int) -> str:
    names = (
        "a/{}.jpg",
        "a-{}.jpg",
        "a/b c/{}.jpg",
        "é/{}.png",
        "a/{}",
        "z+%/{}.jpg",
        "\U0001f600{}",
    )
    return "s3://bucket/" + names[number % len(names)].format(number // 3)


@dataclass
class Case:
    """A random listing, and rows of three runs of which the newer may replace the older."""

    entries: list[FileEntry]
    known: list[Row]
    replaced: list[Row]
    forgotten: list[Row]
    options: dict[str, object]


def random_case(seed: int) -> Case:
    draw = random.Random(seed)
    num_uris = draw.choice([0, 1, 8, 60, 300])
    uris = [uri_of(n) for n in range(num_uris)]
    etags = ["e0", "e1", None]
    known, newest = [], {}
    replaced = []
    for run_id in RUN_IDS[: draw.randint(0, 3)]:
        for uri in draw.sample(uris, draw.randint(0, num_uris)):
            made = row(
                uri,
                etag=draw.choice(etags),
                status=draw.choice(["ok", "no_face", "timeout", "denied"]),
                run_id=run_id,
            )
            if uri in newest:
                replaced.append(newest[uri])
            newest[uri] = made
            known.append(made)
    listed = draw.sample(uris, draw.randint(0, num_uris))
    listed += draw.choices(listed, k=draw.choice([0, 0, 5])) if listed else []
    if draw.random() < 0.5:
        listed.sort()
    entries = [FileEntry(u, draw.choice([None, 5, 9]), draw.choice(etags)) for u in listed]
    forgotten = draw.sample(list(newest.values()), min(len(newest), draw.choice([0, 0, 4])))
    options = {
        "redo_all": draw.random() < 0.2,
        "retry_statuses": draw.choice([(), ("timeout",), ("timeout", "denied")]),
        "limit": draw.choice([None, None, 0, 3, 1000]) if known else None,
        "scope": draw.choice(
            [None, [], [""], ["s3://bucket"], ["s3://bucket/a", "s3://bucket/é/"]]
        ),
    }
    return Case(entries, known, replaced, forgotten, options)


def brute_force(case: Case) -> tuple[dict[str, object], list, list, list]:
    """Counts, and rows of manifest, ``replaced`` and ``deleted``."""
    old = {(r.run_id, r.image_id) for r in case.replaced}
    done = {r.image_uri: r for r in case.known if (r.run_id, r.image_id) not in old}
    forgotten = {r.image_id for r in case.forgotten}
    first: dict[str, FileEntry] = {}
    for entry in case.entries:
        first.setdefault(entry.uri, entry)
    kinds = {}
    for uri, entry in first.items():
        if uri not in done:
            kinds[uri] = "new"
        elif entry.etag != done[uri].etag:
            kinds[uri] = "changed"
        elif case.options["redo_all"] or done[uri].status in case.options["retry_statuses"]:
            kinds[uri] = "retried"
    order = sorted(uri for uri in kinds if image_id(uri) not in forgotten)
    order = order[: case.options["limit"]]
    scope = case.options["scope"]
    gone = [
        done[uri]
        for uri in sorted(done.keys() - first.keys())
        if done[uri].image_id not in forgotten
        and any(r in ("", uri) or uri.startswith(r.rstrip("/") + "/") for r in scope or ())
    ]
    kept = [kinds[uri] for uri in order]
    counts = {
        "num_listed": len(case.entries),
        "num_duplicates": len(case.entries) - len(first),
        "num_unchanged": len(first) - len(kinds),
        "num_deleted": len(gone),
        "num_images": len(order),
        "total_bytes": sum(first[uri].size_bytes or 0 for uri in order),
        **{f"num_{kind}": kept.count(kind) for kind in ("new", "changed", "retried")},
    }
    manifest = [(image_id(uri), uri, None, first[uri].size_bytes, first[uri].etag) for uri in order]
    replaced = [(done[uri].run_id, done[uri].image_id) for uri in order if uri in done]
    deleted = [(r.image_id, r.image_uri, r.run_id) for r in gone]
    return counts, manifest, replaced, deleted


@pytest.mark.parametrize("seed", range(60))
def test_like_brute_force(planner, seed):
    case = random_case(seed)
    found = planner.increment(
        case.entries,
        case.known,
        case.replaced,
        forgotten=ids(case.forgotten) if case.forgotten else None,
        **case.options,
    )
    counts, manifest, replaced, deleted = brute_force(case)
    assert found == Increment(**counts)
    assert [tuple(r.values()) for r in planner.manifest.to_pylist()] == manifest
    assert planner.replaced == replaced
    if case.options["scope"] is None:
        assert not storage.exists(planner.run.file("deleted.parquet"))
    else:
        rows = planner.table("deleted.parquet").to_pylist()
        assert [tuple(r.values()) for r in rows] == deleted
    assert list(planner.scratch.iterdir()) == []


def test_random_cases_are_of_all_kinds():
    """Else the comparison above may say little."""
    found = [brute_force(random_case(seed))[0] for seed in range(60)]
    for name in found[0]:
        assert sum(counts[name] > 0 for counts in found) >= 5, name


def test_everywhere(planner_anywhere):
    planner = planner_anywhere
    known = [row("s3://b/a"), row("s3://b/b"), row("s3://b/gone")]
    entries = [
        FileEntry(f"s3://b/{name}", 1, tag)
        for name, tag in zip("abc", ["e0", "e1", "e2"], strict=True)
    ]
    found = planner.increment(entries, known, scope=["s3://b"])
    assert planner.to_do == ["s3://b/b", "s3://b/c"]
    assert planner.replaced == [(RUN_IDS[0], image_id("s3://b/b"))]
    (gone,) = planner.table("deleted.parquet").to_pylist()
    assert gone["image_uri"] == "s3://b/gone"
    assert found.describe() == "3 listed, 2 to do (1 new, 1 changed), 1 unchanged, 1 deleted"
    names = {e.uri.rpartition("/")[2] for e in storage.list_tree(planner.run.folder)}
    assert names == {"part-00000.parquet", "replaced.parquet", "deleted.parquet"}


# Nothing known


@pytest.mark.parametrize("order", [1, -1])
def test_a_first_run_does_all_that_is_listed(planner, order):
    entries = [FileEntry(f"s3://b/{n:03d}", n, f"t{n}") for n in range(100)][::order]
    found = planner.increment([*entries, entries[0]], scope=["s3://b"])
    assert found == Increment(
        num_listed=101, num_duplicates=1, num_new=100, num_images=100, total_bytes=99 * 50
    )
    assert planner.to_do == [f"s3://b/{n:03d}" for n in range(100)]
    assert planner.replaced == []


def test_a_first_run_in_order(planner):
    entries = [FileEntry(f"s3://b/{n:03d}") for n in range(100)]
    assert planner.increment(entries, scope=["s3://b"]) == Increment(
        num_listed=100, num_new=100, num_images=100
    )
    assert planner.to_do == [entry.uri for entry in entries]
    assert planner.table("deleted.parquet").num_rows == 0


def test_a_limit_cuts_a_first_listing(planner):
    entries = iter([FileEntry(f"s3://b/{n}") for n in range(9)])
    assert planner.increment(entries, limit=4).num_listed == 4
    assert planner.to_do == [f"s3://b/{n}" for n in range(4)]
    assert next(entries).uri == "s3://b/4"


@pytest.mark.parametrize("limit", [0, 3, 4, 20])
def test_a_limit_after_runs_that_did_nothing(planner, monkeypatch, limit):
    monkeypatch.setattr("fattr.increment.spool.ROWS_PER_BATCH", 4)
    entries = [FileEntry(f"s3://b/{n}") for n in range(9)]
    found = planner.increment(entries, known=[], limit=limit)
    assert (found.num_listed, found.num_images) == (9, min(limit, 9))
    assert planner.to_do == [entry.uri for entry in entries[:limit]]


def test_nothing_to_do(planner):
    found = planner.increment([FileEntry("s3://b/a", 1, "e0")], [row("s3://b/a")])
    assert found == Increment(num_listed=1, num_unchanged=1)
    assert found.describe() == "1 listed, 0 to do, 1 unchanged"
    assert planner.manifest.num_rows == 0
    assert planner.manifest.schema == MANIFEST_SCHEMA


def test_told_while_listing(planner, monkeypatch):
    monkeypatch.setattr("fattr.increment.spool.ROWS_PER_BATCH", 4)
    told = []
    planner.increment((FileEntry(f"s3://b/{n}") for n in range(9)), on_listed=told.append)
    assert told == [4, 4, 1]
    assert len(planner.to_do) == 9


# Names


def test_hashed_names(planner):
    names = UriNames(b"secret key of 16")
    uris = [f"s3://b/{n}" for n in range(40)]
    known = [
        row(uri, etag=names.etag("e0"), image_id=i, image_uri=h)
        for uri in uris[:30]
        for i, h, _ in [names.name(uri)]
    ]
    entries = [FileEntry(uri, 1, "e1" if n < 3 else "e0") for n, uri in enumerate(uris) if n != 9]
    found = planner.increment(entries, known, names=names, scope=[""])
    assert found == Increment(
        num_listed=39,
        num_new=10,
        num_changed=3,
        num_unchanged=26,
        num_deleted=1,
        num_images=13,
        total_bytes=13,
    )
    rows = planner.manifest.to_pylist()
    assert sorted(r["fetch_uri"] for r in rows) == sorted([*uris[:3], *uris[30:]])
    assert [(r["image_id"], r["image_uri"]) for r in rows] == sorted(
        (names.name(r["fetch_uri"])[:2] for r in rows), key=lambda name: name[1]
    )
    deleted = planner.table("deleted.parquet").to_pylist()
    assert [r["image_uri"] for r in deleted] == [names.name(uris[9])[1]]
    assert not any(
        b"s3://b" in storage.read_bytes(planner.run.file(f"{n}.parquet"))
        for n in ("deleted", "replaced")
    )


def few_bits(data: bytes) -> bytes:
    """A digest whose first 8 bytes, the id, are one of 1,024."""
    digest = hashlib.sha256(data).digest()
    return (int.from_bytes(digest[:2], "big") % 1024).to_bytes(8, "big") + digest[8:]


def collision_free(rows: list[dict[str, object]]) -> bool:
    return len({r["image_id"] for r in rows}) == len(rows)


class TestCollisions:
    def test_first_run(self, planner):
        names = UriNames(digest=few_bits)
        planner.increment([FileEntry(f"s3://b/{n:03d}") for n in range(200)], names=names)
        rows = planner.manifest.to_pylist()
        assert collision_free(rows)
        own = {}
        for r in rows:  # the first by URI keeps its own id
            number = names.name(r["image_uri"])[0]
            if own.setdefault(number, r["image_uri"]) == r["image_uri"]:
                assert r["image_id"] == number
        assert 5 < len(rows) - len(own) < 60

    def test_later_runs_keep_ids_and_avoid_those_that_are_taken(self, tmp_path):
        names = UriNames(digest=few_bits)
        entries = [FileEntry(f"s3://b/{n:03d}", 1, "e0") for n in range(0, 200, 2)]
        first = Planner(tmp_path)
        first.increment(entries, names=names)
        known = [
            Row(r["image_id"], r["image_uri"], run_id=RUN_IDS[0])
            for r in first.manifest.to_pylist()
        ]
        (tmp_path / "second").mkdir()
        second = Planner(tmp_path / "second")
        changed = [FileEntry(f"s3://b/{n:03d}", 1, "e0" if n % 3 else "e1") for n in range(200)]
        found = second.increment(changed, known, names=names)
        assert (found.num_new, found.num_changed) == (100, 34)
        ids_before = {r.image_uri: r.image_id for r in known}
        rows = second.manifest.to_pylist()
        redone = [r for r in rows if r["image_uri"] in ids_before]
        assert all(r["image_id"] == ids_before[r["image_uri"]] for r in redone)
        after = ids_before | {r["image_uri"]: r["image_id"] for r in rows}
        assert len(set(after.values())) == len(after) == 200
        assert sorted(second.replaced) == sorted((RUN_IDS[0], r["image_id"]) for r in redone)


# Deleted


def test_patterns_limit_what_is_reported_as_deleted(planner):
    known = [row("s3://b/a.jpg"), row("s3://b/a.png"), row("s3://b2/a.jpg"), row("s3://b")]
    found = planner.increment(
        [FileEntry("s3://b/z.jpg")],
        known,
        scope=["s3://b"],
        is_meant=lambda uri: uri.endswith(".jpg"),
    )
    assert found.num_deleted == 1
    assert planner.table("deleted.parquet").cast(DELETED_SCHEMA).to_pylist() == [
        {"image_id": known[0].image_id, "image_uri": "s3://b/a.jpg", "run_id": RUN_IDS[0]}
    ]


# Retrying


def test_retry_lists_nothing(planner_anywhere):
    planner = planner_anywhere
    old = row("s3://b/b", status="timeout")
    known = [
        old,
        row("s3://b/c", status="denied", etag=None, size_bytes=None),
        row("s3://b/b", status="timeout", etag="e1", run_id=RUN_IDS[1]),
        row("s3://b/a", status="timeout", etag="e2", size_bytes=3),
        row("s3://b/f", status="timeout"),
        row("s3://b/ok"),
    ]
    found = planner.retry(["timeout", "denied"], known, [old], forgotten=ids(known[4:5]))
    assert found == Increment(num_retried=3, num_images=3, total_bytes=10)
    assert found.describe() == "3 to do (3 again)"
    assert [tuple(r.values())[1:] for r in planner.manifest.to_pylist()] == [
        ("s3://b/a", None, 3, "e2"),
        ("s3://b/b", None, 7, "e1"),
        ("s3://b/c", None, None, None),
    ]
    assert [run_id for run_id, _ in planner.replaced] == [RUN_IDS[0], RUN_IDS[1], RUN_IDS[0]]


def test_a_retried_image_is_unchanged_to_the_next_listing(tmp_path):
    known = [row("s3://b/a", status="timeout", etag="e1")]
    planner = Planner(tmp_path)
    planner.retry(["timeout"], known)
    (todo,) = planner.manifest.to_pylist()
    again = row("s3://b/a", etag=todo["etag"], run_id=NEXT_RUN)
    (tmp_path / "next").mkdir()
    following = Planner(tmp_path / "next")
    entries = [FileEntry("s3://b/a", 7, "e1")]
    assert following.increment(entries, [*known, again], known).num_images == 0


def test_retry_limit(planner):
    known = [row(f"s3://b/{n}", status="timeout") for n in range(5)]
    assert planner.retry(["timeout"], known, limit=2).num_images == 2
    assert planner.to_do == ["s3://b/0", "s3://b/1"]


def test_hashed_names_cannot_be_fetched(planner):
    known = [row("s3://b/a", status="timeout", image_uri="ab" * 32)]
    with pytest.raises(UsageError, match=r"hashed URIs, .* --images"):
        planner.retry(["timeout"], known)


def test_what_many_images_replace_is_streamed(planner_anywhere):
    """Many batches and row groups, in order; and read again as it was written."""
    planner = planner_anywhere
    uris = sorted(f"s3://b/{n}" for n in range(70_000))
    known = [row(uri, run_id=RUN_IDS[n % 3]) for n, uri in enumerate(uris)]
    found = planner.increment([FileEntry(uri, 7, "e0") for uri in uris], known, redo_all=True)
    expected = [(RUN_IDS[n % 3], image_id(uri)) for n, uri in enumerate(uris)]
    assert (found.num_retried, planner.replaced) == (len(uris), expected)
    files, path = storage.filesystem(planner.run.file("replaced.parquet"))
    assert pq.read_metadata(path, filesystem=files).num_row_groups > 1
    rows = replaced_rows([planner.run]).to_batches(batch_readahead=1, fragment_readahead=1)
    assert [tuple(r.values()) for batch in rows for r in batch.to_pylist()] == expected


# Failing


@pytest.mark.parametrize("error", [UsageError("no more"), StorageError("denied", "s3://b", "no")])
def test_a_failed_listing_leaves_nothing(planner, error):
    def entries():
        yield FileEntry("s3://b/a")
        raise error

    with pytest.raises(type(error)) as caught:
        planner.increment(entries(), [row("s3://b/a")])
    assert caught.value is error
    assert list(planner.scratch.iterdir()) == []
    assert list(storage.list_tree(planner.run.folder)) == []


def test_known_rows_that_cannot_be_read(planner):
    def batches():
        yield from reader([row("s3://b/a")])
        raise StorageError("unavailable", "s3://b/part", "HTTP 503")

    known = pa.RecordBatchReader.from_batches(KNOWN_SCHEMA, batches())
    with pytest.raises(StorageError, match="HTTP 503"):
        plan_increment(
            [FileEntry("s3://b/a")],
            planner.run,
            names=NAMES,
            done=Done(known=known),
            wanted=Wanted(),
            room=planner.room(),
        )


def test_no_room(planner, monkeypatch):
    monkeypatch.setattr("fattr.increment.comparison._MB_PER_THREAD", 1)
    rows = [FileEntry(f"s3://b/{n}", n, f"e{n}") for n in range(200_000)]
    with pytest.raises(RunError, match="free disk space"):
        plan_increment(
            rows,
            planner.run,
            names=NAMES,
            done=Done(known=reader([row("s3://b/a")])),
            wanted=Wanted(),
            room=planner.room(memory_limit_mb=1),
        )


class Check:
    """Counts calls, and says at one of them that the lease is lost."""

    def __init__(self, lost_at: int | None = None) -> None:
        self.num_calls, self._lost_at = 0, lost_at

    def __call__(self) -> None:
        self.num_calls += 1
        if self.num_calls == self._lost_at:
            raise RunError("the lease was lost")


LISTED = [FileEntry(f"s3://b/{n}", 1, "new") for n in range(9)]
KNOWN = [row(f"s3://b/{n}") for n in range(3, 20)]


def test_a_lost_lease_ends_each_step_of_the_planning(planner):
    calm, steps = Check(), []
    planner.increment(
        LISTED, KNOWN, KNOWN[:2], scope=["s3://b"], check=calm, on_listed=steps.append
    )
    assert calm.num_calls > 12  # batches known and replaced, statements, and what is written
    for number in range(1, calm.num_calls + 1):
        storage.delete_tree(planner.run.folder)
        with pytest.raises(RunError, match="the lease was lost"):
            planner.increment(LISTED, KNOWN, KNOWN[:2], scope=["s3://b"], check=Check(number))
        assert list(planner.scratch.iterdir()) == []
        assert not [e for e in storage.list_tree(planner.run.folder) if "/." in e.uri]
    deleted = storage.exists(planner.run.file("deleted.parquet"))
    assert not deleted  # the last check is before it is there


def test_a_lost_lease_ends_a_long_comparison_within_a_batch(planner):
    """Known rows are read for minutes: the check comes with each batch of them."""
    check = Check(5)
    read = []

    def batches():
        for number in range(100):
            read.append(number)
            yield from reader([row(f"s3://b/{number}")])

    with pytest.raises(RunError, match="the lease was lost"):
        plan_increment(
            LISTED,
            planner.run,
            names=NAMES,
            done=Done(known=batches()),
            wanted=Wanted(),
            room=planner.room(),
            check=check,
        )
    assert len(read) < 5


def test_a_lost_lease_ends_a_retry(planner):
    with pytest.raises(RunError, match="the lease was lost"):
        planner.retry(["ok"], KNOWN, check=Check(2))
    assert list(storage.list_tree(planner.run.folder)) == []
