"""``jobs/annotate.py`` as a process of its own, and how its tables compare with a calm run's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from benchmarks.faults.rclone import s3_environment, s3_of_folder
from benchmarks.faults.s3_proxy import Plan, fault_proxy

ROOT = Path(__file__).parents[2]
DETECT_SIZE = 320
RUN_S = 1800.0  # no run of a drill takes longer
LEASE_POLL_S = 5.0
KEYS = {"images": ["image_uri"], "faces": ["image_uri", "face_index"]}
TOLERANCE = 1e-3  # of a figure: another batch may sum in another order


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ended: its exit code, the last line it said, and what it took."""

    code: int
    last_line: str
    seconds: float
    said: str = ""


def command(images: str, output: str, *flags: str, engine: str = "ray") -> list[str]:
    """The command line of a run with the shipped CelebA model."""
    model = [] if "--model" in flags else ["--model", "celeba40"]
    argv = [sys.executable, str(ROOT / "jobs" / "annotate.py"), "--images", images]
    argv += ["--output", output, "--engine", engine, "--detect-size", str(DETECT_SIZE)]
    return [*argv, *model, *flags]


class Process:
    """A run under way, in a process group of its own."""

    def __init__(self, argv: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._log, self._started = log, time.monotonic()
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the driver."""
        return self._process.pid

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the driver alone, as the kernel does when memory runs out."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def kill_all(self) -> None:
        """SIGKILL to the driver and all that it started in its own session."""
        if self.is_running():
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def wait(self, timeout_s: float = RUN_S) -> Ended:
        """Until it has ended; one that does not is killed and has code -9."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill_all()
        said = self._log.read_text(errors="replace")
        last = (said.strip().splitlines() or [""])[-1]
        seconds = time.monotonic() - self._started
        return Ended(self._process.returncode, last, seconds, said)


def start(argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Process:
    """Start a run; what it says goes to ``log``."""
    return Process(argv, log, os.environ if environment is None else environment)


def run(argv: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """A run from its start to its end."""
    return start(argv, log, environment).wait()


def unless(code: int, ended: Ended) -> list[str]:
    """What to say of a run that ended with another code."""
    return [] if ended.code == code else [f"exit {ended.code}, said: {ended.last_line}"]


def is_lease_refusal(ended: Ended) -> bool:
    """Whether a run was refused because another holds the output."""
    return ended.code == 2 and "lease" in ended.last_line


def run_after_lease(
    argv: Sequence[str],
    log: Path,
    environment: Mapping[str, str] | None = None,
    *,
    patience_s: float = 900.0,
) -> Ended:
    """A run, begun again for as long as the lease of a killed one keeps it out."""
    stop = time.monotonic() + patience_s
    while is_lease_refusal(ended := run(argv, log, environment)) and time.monotonic() < stop:
        time.sleep(LEASE_POLL_S)
    return ended


def verify(output: str, log: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """``fattr verify OUTPUT``."""
    program = "import sys; from fattr.cli import main; sys.exit(main())"
    return run([sys.executable, "-c", program, "verify", output], log, environment)


# Places


@dataclass(frozen=True, slots=True)
class Places:
    """Where the images and tables of a drill lie, by name: folders, or prefixes of buckets."""

    root: Path
    environment: Mapping[str, str]  # of whoever works there
    is_s3: bool

    def uri(self, name: str) -> str:
        """As a run is told it."""
        return f"s3://{name}" if self.is_s3 else str(self.path(name))

    def path(self, name: str) -> Path:
        """Where a drill itself looks: the buckets are folders, too."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


@contextmanager
def places(folder: Path, *, in_s3: bool) -> Iterator[Places]:
    """Folders below ``folder``; or the buckets ``photos``, ``tables`` and ``calm`` of a server.

    That server is real, and a proxy without faults gives it the conditional writes that it lacks.
    """
    if not in_s3:
        yield Places(folder, os.environ, is_s3=False)
        return
    buckets = folder / "buckets"
    for name in ("photos", "tables", "calm"):
        (buckets / name).mkdir(parents=True, exist_ok=True)
    with s3_of_folder(buckets) as url, fault_proxy(url, Plan()) as proxy:
        yield Places(buckets, s3_environment(proxy.url), is_s3=True)


# Tables


def finished_runs(output: Path) -> list[str]:
    """Ids of the runs with a ``_SUCCESS``, oldest first."""
    return sorted(path.parent.name for path in output.glob("_runs/*/_SUCCESS"))


def current_rows(output: Path, table: str) -> pa.Table:
    """The rows that count: of finished runs, less those that a later one replaced.

    Read with Arrow alone, so that it is a second opinion beside ``fattr.open_tables``.
    """
    parts = []
    replaced = _replaced(output)
    for run_id in finished_runs(output):
        files = sorted(map(str, output.glob(f"{table}/dt=*/run={run_id}/*.parquet")))
        if not files:
            continue
        rows = ds.dataset(files, partitioning=None).to_table()
        gone = pa.array(sorted(replaced.get(run_id, ())), pa.int64())
        parts.append(rows.filter(pc.invert(pc.is_in(rows["image_id"], gone))))
    rows = pa.concat_tables(parts, promote_options="default")
    return rows.sort_by([(key, "ascending") for key in KEYS[table]])


def _replaced(output: Path) -> dict[str, set[int]]:
    """Of each run, the ids of images that a later finished run did again."""
    gone: dict[str, set[int]] = {}
    for run_id in finished_runs(output):
        path = output / "_runs" / run_id / "replaced.parquet"
        for pair in pq.read_table(path).to_pylist() if path.exists() else []:
            gone.setdefault(pair["run_id"], set()).add(pair["image_id"])
    return gone


def differences(output: Path, calm: Path) -> list[str]:
    """What is lost, there twice, or other than in an undisturbed run's tables; empty when equal."""
    if not (finished_runs(output) and finished_runs(calm)):
        return ["no finished run to compare"]
    found = []
    for table, keys in KEYS.items():
        ours, theirs = current_rows(output, table), current_rows(calm, table)
        wrong_keys = _key_differences(table, ours, theirs, keys)
        found += wrong_keys or _value_differences(table, ours, theirs)
    return found


def _key_differences(table: str, ours: pa.Table, theirs: pa.Table, keys: list[str]) -> list[str]:
    counts, wanted = (
        Counter(tuple(row.values()) for row in rows.select(keys).to_pylist())
        for rows in (ours, theirs)
    )
    twice = [key for key, count in counts.items() if count > 1]
    found = {
        "lost": sorted(wanted.keys() - counts.keys()),
        "too many": sorted(counts.keys() - wanted.keys()),
        "there twice": sorted(twice),
    }
    return [f"{table}: {len(k)} {what}, first {k[0]}" for what, k in found.items() if k]


def _value_differences(table: str, ours: pa.Table, theirs: pa.Table) -> list[str]:
    found = []
    for name in ours.column_names:
        unequal = _unequal_rows(ours[name], theirs[name])
        if len(unequal):
            at = int(unequal[0])
            pair = f"{ours[name][at]} for {theirs[name][at]}"
            found.append(
                f"{table}: {len(unequal)} other {name}, first {ours['image_uri'][at]}: {pair}"
            )
    return found


def _unequal_rows(ours: pa.ChunkedArray, theirs: pa.ChunkedArray) -> np.ndarray:
    """Rows in which two columns differ, figures by more than ``TOLERANCE`` of themselves."""
    kind = ours.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        left, right = (column.to_pylist() for column in (ours, theirs))
        close = [
            len(a or ()) == len(b or ()) and np.allclose(a or (), b or (), TOLERANCE, TOLERANCE)
            for a, b in zip(left, right, strict=True)
        ]
        return np.flatnonzero(~np.array(close, bool))
    if pa.types.is_floating(kind):
        left, right = (column.to_numpy() for column in (ours, theirs))
        return np.flatnonzero(~np.isclose(left, right, TOLERANCE, TOLERANCE, equal_nan=True))
    pairs = zip(ours.to_pylist(), theirs.to_pylist(), strict=True)
    return np.flatnonzero(np.array([a != b for a, b in pairs], bool))
