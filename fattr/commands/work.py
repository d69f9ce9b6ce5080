"""What a run has to do: images that are listed and not yet done, or those to be done again."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fattr import storage
from fattr.config import AnnotateConfig
from fattr.errors import StorageError, UsageError
from fattr.increment.plan import Done, Increment, Room, Wanted, plan_increment, plan_retry
from fattr.published import catalog
from fattr.published.forget import forgotten_ids
from fattr.runs.manifest import UriNames
from fattr.runs.run import Run, read_info
from fattr.runs.take_up import Past
from fattr.sources.globs import uri_filter
from fattr.sources.source import complete_roots, is_listing, read_source
from fattr.storage import FileEntry, ReadOptions

MIN_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked for; ``only`` are the statuses of a retry, which lists nothing."""

    config: AnnotateConfig
    names: UriNames
    only: tuple[str, ...] = ()

    @property
    def request(self) -> dict[str, Any]:
        """What must be asked for again to go on with the run; tells no URI under --hash-uris."""
        if self.only:
            return {"job": "retry", "status": sorted(self.only)}
        config = self.config
        images = storage.canonical_uri(config.images)
        return {
            "job": "annotate",
            "images": self.name(images),
            "purpose": config.purpose,
            "include": [self.name(glob) for glob in config.include],
            "exclude": [self.name(glob) for glob in config.exclude],
            "all": config.all,
            "retry": sorted(config.retry_statuses),
            "limit": config.limit,
        }

    def name(self, text: str) -> str:
        """A place or glob as it may be kept: hashed under --hash-uris."""
        return self.names.name(text)[1] if self.config.hash_uris else text

    def entries(self) -> Iterator[FileEntry]:
        """The images listed; the first is looked for at once.

        Raises:
            UsageError: there is none, or the source cannot be read.
        StorageError: the store is unavailable.
        """
        entries = self._listed()
        return itertools.chain([next(entries)], entries)

    def _listed(self) -> Iterator[FileEntry]:
        config = self.config
        with storage.os_errors(config.images):
            yield from read_source(
                config.images,
                include=config.include,
                exclude=config.exclude,
                options=read_options(config),
            )


def read_options(config: AnnotateConfig) -> ReadOptions:
    """How the images are read."""
    return ReadOptions(
        anonymous=config.anonymous,
        requester_pays=config.requester_pays,
        max_bytes=config.max_bytes,
        timeout_s=config.fetch_timeout,
    )


def read_key(place: str) -> bytes:
    """The key that URIs are hashed with.

    Raises:
        UsageError: It cannot be read, or is so short that it can be guessed.
    """
    try:
        key = storage.read_bytes(place).strip()
    except StorageError as error:
        raise UsageError(f"--hash-uris {error}: expected a file that holds a key") from None
    if len(key) < MIN_KEY_BYTES:
        raise UsageError(
            f"--hash-uris {place} holds {len(key)} bytes: {MIN_KEY_BYTES} or more expected;"
            " make one with: openssl rand -hex 32"
        )
    return key


def key_id(key: bytes) -> str:
    """Tells two keys apart and gives nothing away of either."""
    return hmac.new(key, b"fattr key id", hashlib.sha256).hexdigest()[:16]


def is_meant(config: AnnotateConfig) -> Callable[[str], bool] | None:
    """Which URIs --include and --exclude leave; None where they leave all."""
    root = storage.canonical_uri(config.images) if is_listing(config.images) else None
    return uri_filter(root, include=config.include, exclude=config.exclude)


def listed_in_full(work: Work, past: Past) -> list[str] | None:
    """Places of which the listing names all images, so that others are gone; None: of none.

    Hashed URIs lie nowhere: there it is everywhere if all runs listed the same, and nowhere if not.
    """
    config = work.config
    roots = complete_roots(config.images, options=read_options(config))
    if not config.hash_uris or roots is None:
        return roots
    source = ("images", "include", "exclude")
    asked = [read_info(run)["request"] for run in past.finished]
    same = all(one[name] == work.request[name] for one in asked for name in source)
    return [""] if same else None


def list_work(
    work: Work,
    run: Run,
    past: Past,
    entries: Iterator[FileEntry],
    on_listed: Callable[[int], None],
    check: Callable[[], None] = lambda: None,
) -> Increment:
    """Write the manifest of ``run``: what no finished run holds, or what it is to do again.

    Raises:
        FattrError: Listing failed, or the manifest could not be written; or what ``check`` raised,
            which is called often.
    """
    config = work.config
    output = past.finished[0].output if past.finished else run.output
    done = Done(
        known=catalog.known_images(output, past.finished) if past.finished else None,
        replaced=catalog.replaced_stream(output, past.finished),
        forgotten=forgotten_ids(output),
    )
    room = Room(scratch=Path(tempfile.gettempdir()))
    if work.only:
        return plan_retry(run, done=done, statuses=work.only, room=room, check=check)
    wanted = Wanted(
        redo_all=config.all,
        retry_statuses=config.retry_statuses,
        limit=config.limit,
        scope=listed_in_full(work, past),
        is_meant=None if config.hash_uris else is_meant(config),
    )
    return plan_increment(
        entries,
        run,
        names=work.names,
        done=done,
        wanted=wanted,
        room=room,
        on_listed=on_listed,
        check=check,
    )
