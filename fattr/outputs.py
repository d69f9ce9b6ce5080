"""Where a training or evaluation run writes: fresh, or its own, so that no two runs mix."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fattr import storage
from fattr.errors import UsageError

OF_ANY_RUN = "_runs"  # who holds the output: no sign of a run by itself


def local_folder(output: str) -> Path:
    """The absolute path of an output that is written piece by piece.

    Raises:
        UsageError: it is a URI.
    """
    if "://" in output:
        raise UsageError(f"--output {output}: a local folder expected; copy it there afterwards")
    return Path(output).absolute()


def refuse_used_output(output: Path) -> None:
    """Refuse a folder that holds anything of a run.

    Raises:
        UsageError: naming what is there.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"--output {output}: a folder expected, it is a file")
    refuse_held(str(output), sorted(path.name for path in output.iterdir()))


def refuse_held(output: str, names: list[str]) -> None:
    """Refuse an output in which there are files or folders of these names.

    Hidden ones do not count: a write that was killed leaves its draft, which nobody ever reads.

    Raises:
        UsageError: naming the first of them.
    """
    if held := [name for name in names if name != OF_ANY_RUN and not name.startswith(".")]:
        raise UsageError(
            f"--output {output} holds a run already ({', '.join(held[:4])}): choose another folder"
        )


def names_in(output_uri: str) -> list[str]:
    """The files and folders directly in an output, sorted; none where there is none.

    Raises:
        StorageError: it cannot be listed.
    """
    paths = (storage.relative_path(e.uri, output_uri) for e in storage.list_tree(output_uri))
    return sorted({path.partition("/")[0] for path in paths})


@contextmanager
def workplace(output_uri: str) -> Iterator[Path]:
    """A local folder in which an output is made: itself, or one to be ``put`` there."""
    if folder := storage.local_path(output_uri):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="fattr-") as name:
        yield Path(name)


def put(folder: Path, output_uri: str) -> None:
    """Copy what is in a workplace to its output, where that is elsewhere.

    Raises:
        StorageError: it could not be written.
    """
    if storage.local_path(output_uri):
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            uri = storage.join(output_uri, path.relative_to(folder).as_posix())
            storage.write_bytes(uri, path.read_bytes())
