"""The checkpoints of a training run, in a folder or a bucket: complete or not there, and few."""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.fs

from fattr import storage
from fattr.errors import RunError, StorageError
from fattr.records import Status
from fattr.storage.retries import TransientError, retry

STATE = "state.json"  # written last: a folder without it is not complete
METRICS = "metrics.json"  # of a checkpoint at the end of an epoch
NEWEST = 2  # the last, and the one before it should that be damaged
ATTEMPTS = 10
_HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)

log = logging.getLogger(__name__)


def name_of(folder: Path) -> str:
    """What a checkpoint is called: later ones sort after earlier ones, equal ones are called alike.

    Args:
        folder: Holds ``state.json`` with ``epoch`` and ``position``, as the loop left it.
    """
    state = json.loads((folder / STATE).read_text())
    return f"epoch-{state['epoch']:05}-position-{state['position']:010}"


def kept(names: Sequence[str], scores: Mapping[str, float], num_best: int) -> set[str]:
    """Which of some checkpoints stay: the newest ones, and the best of those that have a score."""
    scored = sorted(scores.keys() & set(names))  # of equal ones the earlier is better
    best = sorted(scored, key=lambda name: -scores[name])[:num_best]
    return {*sorted(names)[-NEWEST:], *best}


class CheckpointStore:
    """A run's checkpoints below a folder; can be pickled.

    Args:
        uri: The folder.
        num_best: So many of those with the best metric are kept, besides the newest.
        metric: Which figure of ``metrics.json`` tells.
        lower_is_better: As of a loss.
    """

    def __init__(self, uri: str, *, num_best: int, metric: str, lower_is_better: bool) -> None:
        self.uri = storage.canonical_uri(uri)
        self._num_best, self._metric = num_best, metric
        self._sign = -1 if lower_is_better else 1
        self._scores: dict[str, float] = {}

    def names(self) -> list[str]:
        """The complete ones, newest first."""
        return sorted(self._files_named(STATE), reverse=True)

    def folders(self, names: Sequence[str] | None = None) -> Iterator[Path]:
        """Of each of these, or of all, newest first, its files on this machine while it is used."""
        for name in self.names() if names is None else names:
            with self.fetched(name) as folder:
                yield folder

    @contextmanager
    def fetched(self, name: str) -> Iterator[Path]:
        """A folder of this machine with the files of a checkpoint, not to be written to."""
        uri = storage.join(self.uri, name)
        if here := storage.local_path(uri):
            yield here
            return
        with tempfile.TemporaryDirectory(prefix="fattr-checkpoint-") as temporary:
            folder = Path(temporary) / name
            folder.mkdir()
            retry(lambda: _fetch(uri, folder), uri, attempts=ATTEMPTS)
            yield folder

    def put(self, name: str, folder: Path, metrics: Mapping[str, float]) -> None:
        """Copy a checkpoint here, and delete those that it makes superfluous.

        It is tried again for a while where the storage fails. Later ones were damaged, else the run
        would have gone on from them.

        Raises:
            RunError: It could not be written.
        """
        uri = storage.join(self.uri, name)
        try:
            retry(lambda: self._put(uri, folder, metrics), uri, attempts=ATTEMPTS)
        except StorageError as error:
            raise RunError(
                f"no checkpoint could be written: {error}; what is done is kept: mend that and run"
                " the same command again"
            ) from None
        try:
            self._prune(name)
        except StorageError as error:
            log.warning("superfluous checkpoints were not deleted: %s", error)

    def _prune(self, last: str) -> None:
        """Delete all that is neither new nor among the best, what is incomplete or after ``last``.

        Raises:
            StorageError: Something could not be deleted.
        """
        names = [name for name in self.names() if name <= last]
        for name in self._files_named(METRICS).intersection(names) - self._scores.keys():
            self._scores[name] = self._score(name)
        stay = kept(names, self._scores, self._num_best)
        for name in storage.list_folders(self.uri):
            if name not in stay:
                storage.delete_tree(storage.join(self.uri, name))

    def _files_named(self, name: str) -> set[str]:
        """The checkpoints that have a file."""
        paths = (storage.relative_path(e.uri, self.uri) for e in storage.list_tree(self.uri))
        return {path.removesuffix(f"/{name}") for path in paths if path.endswith(f"/{name}")}

    def _score(self, name: str) -> float:
        metrics = json.loads(storage.read_bytes(storage.join(self.uri, name, METRICS)))
        return self._sign * float(metrics[self._metric])

    def _put(self, uri: str, folder: Path, metrics: Mapping[str, float]) -> None:
        storage.delete_tree(uri)  # of an attempt that was cut short, or damaged since
        try:
            for path in sorted(folder.iterdir()):
                if path.name != STATE:
                    _copy(path, storage.join(uri, path.name))
        except OSError as error:
            raise _storage_error(uri, error) from None
        if self._metric in metrics:
            text = json.dumps(dict(metrics), indent=1)
            storage.write_bytes(storage.join(uri, METRICS), text.encode())
        storage.write_bytes(storage.join(uri, STATE), (folder / STATE).read_bytes())


def _fetch(uri: str, folder: Path) -> None:
    files, path = storage.filesystem(uri)
    try:
        pyarrow.fs.copy_files(path, str(folder), files, pyarrow.fs.LocalFileSystem())
    except OSError as error:
        raise _storage_error(uri, error) from None


def _copy(path: Path, uri: str) -> None:
    files, there = storage.filesystem(uri)
    if here := storage.local_path(uri):
        here.parent.mkdir(parents=True, exist_ok=True)
    with path.open("rb") as source, files.open_output_stream(there) as target:
        shutil.copyfileobj(source, target, 1 << 22)


def _storage_error(uri: str, error: OSError) -> StorageError:
    """What is worth trying again, or what is not."""
    said = storage.words_of(error)
    if error.errno in _HOPELESS:
        return StorageError(Status.UNAVAILABLE, uri, said)
    return TransientError(Status.UNAVAILABLE, uri, said)
