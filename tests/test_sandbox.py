"""A stage that images crash, hang and confuse."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest

from fattr.errors import RunError
from fattr.records import Status
from fattr.sandbox import Alarm, ChildEndedError, Sandbox, try_row
from fattr.stages import mark_failed

TIMEOUT_S = 1.0


def rows_of(*items: bytes) -> pa.Table:
    return pa.table(
        {
            "image_id": pa.array(range(len(items)), pa.int64()),
            "image_bytes": pa.array(items, pa.large_binary()),
            "fetch_status": ["ok"] * len(items),
            "fetch_reason": [""] * len(items),
        }
    )


def plain_stage(rows: pa.Table) -> pa.Table:
    """Status, reason, and who did it."""
    return rows.drop_columns(["image_bytes"]).append_column("pid", [[os.getpid()] * len(rows)])


def build(folder, pulse):
    """The plain stage with poison in it; leaves a file for each child that began."""
    from poison import Poisoned

    (Path(folder) / str(os.getpid())).touch()
    return Poisoned(plain_stage, pulse)


def build_crashing(pulse):
    ctypes_free_exit = 9
    os._exit(ctypes_free_exit)


def build_slowly(pulse):
    time.sleep(60)


@pytest.fixture
def sandbox(tmp_path):
    with closing(Sandbox(functools.partial(build, tmp_path), image_timeout_s=TIMEOUT_S)) as made:
        yield made


def test_one_child_for_all_rows_that_do_no_harm(sandbox):
    rows = rows_of(b"a", b"b", b"c")
    made = pa.concat_tables([sandbox(rows.slice(i, 1)) for i in range(3)])
    assert made.drop_columns(["pid"]).equals(rows.drop_columns(["image_bytes"]))
    (child,) = set(made["pid"].to_pylist())
    assert child != os.getpid()


@pytest.mark.parametrize(
    ("data", "how"),
    [
        (b"SEGFAULT", "was killed by signal 11"),
        (b"EXIT", "ended with code 7"),
        (b"HANG", "took longer than 1 s"),
        (b"RAISE", "raised ValueError"),
    ],
)
def test_poison_becomes_a_row_and_the_next_rows_are_as_ever(sandbox, tmp_path, data, how, capfd):
    rows = rows_of(b"a", data, b"b")
    made = [try_row(rows.slice(i, 1), sandbox, plain_stage).to_pylist()[0] for i in range(3)]
    assert [row["fetch_status"] for row in made] == ["ok", Status.POISON, "ok"]
    assert made[1]["fetch_reason"] == f"its process {how} twice"
    assert made[1]["pid"] == os.getpid()  # its bytes went to children only
    assert len(list(tmp_path.iterdir())) == 3  # one for a, again for the second try and for b


def test_a_row_that_ends_the_child_once_is_done_at_the_second_try(tmp_path):
    calls = []

    def once(row):
        calls.append(row)
        if len(calls) == 1:
            raise ChildEndedError("was killed by signal 9")
        return row

    row = rows_of(b"a")
    assert try_row(row, once, plain_stage) is row


def test_networks_that_cannot_be_loaded_are_no_fault_of_the_image():
    with (
        closing(Sandbox(build_crashing, image_timeout_s=TIMEOUT_S)) as sandbox,
        pytest.raises(RunError, match="could not be loaded in a child process, which ended with"),
    ):
        try_row(rows_of(b"a"), sandbox, plain_stage)


def test_networks_that_load_for_ever():
    slow = Sandbox(build_slowly, image_timeout_s=60, start_timeout_s=1)
    with closing(slow), pytest.raises(RunError, match="which took longer than 1 s"):
        slow(rows_of(b"a"))


def test_a_child_whose_parent_is_killed_ends_though_it_hangs(tmp_path):
    """With its images' time limit, at the latest."""
    script = f"""
import functools, sys
sys.path[:0] = {sys.path!r}
import test_sandbox
from fattr.sandbox import Sandbox
if __name__ == "__main__":
    stage = functools.partial(test_sandbox.build, {str(tmp_path)!r})
    sandbox = Sandbox(stage, image_timeout_s=3)
    sandbox(test_sandbox.rows_of(b"a"))
    print("started", flush=True)
    sandbox(test_sandbox.rows_of(b"HANG"))
"""
    (tmp_path / "main.py").write_text(script)
    folder = Path(__file__).parent
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "main.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(folder)},
    ) as process:
        assert process.stdout.readline() == b"started\n"
        process.kill()
    (child,) = (int(path.name) for path in tmp_path.iterdir() if path.name.isdigit())
    deadline = time.monotonic() + 10
    while is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(child)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_the_alarm_ends_a_process_that_holds_every_lock():
    script = (
        "from fattr.sandbox import Alarm\nAlarm(0.2)()\n"
        "import ctypes\nctypes.PyDLL(None).sleep(30)"  # PyDLL keeps the interpreter's lock
    )
    done = subprocess.run([sys.executable, "-c", script], timeout=20, check=False)
    assert done.returncode == -signal.SIGALRM


def test_an_alarm_that_is_wound_up_or_stopped_does_not_go_off():
    alarm = Alarm(0.2)
    for _ in range(5):
        alarm()
        time.sleep(0.1)
    alarm.stop()
    time.sleep(0.3)


def test_a_row_marked_as_failed_has_no_bytes_and_says_why():
    rows = rows_of(b"a", b"b").append_column("size_bytes", [[1, 2]])
    marked = mark_failed(rows, "poison", "because")
    assert marked.schema.equals(rows.schema)
    assert marked.to_pydict() == {
        "image_id": [0, 1],
        "image_bytes": [None, None],
        "fetch_status": ["poison", "poison"],
        "fetch_reason": ["because", "because"],
        "size_bytes": [1, 2],
    }
