"""The folder a training or evaluation run writes: fresh, so that no two runs mix."""

from __future__ import annotations

from pathlib import Path

from fattr.errors import UsageError


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
    if held := sorted(path.name for path in output.iterdir()):
        raise UsageError(
            f"--output {output} holds a run already ({', '.join(held[:4])}): choose another folder"
        )
