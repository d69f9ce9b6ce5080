"""A listing against the rows of finished runs, by DuckDB on the local disk: bounded memory.

Rows are matched and compared by hashes of names and etags, so that what is sorted into partitions
and spilled is 40 bytes a row and not 200.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fattr.increment.spool import ROWS_PER_BATCH, Spool, read_spool, spool_entries, spool_tables
from fattr.published.catalog import KNOWN_SCHEMA, REPLACED_SCHEMA
from fattr.runs.manifest import MANIFEST_SCHEMA, UriNames
from fattr.storage import FileEntry

NEW, CHANGED, RETRIED, GONE = "new", "changed", "retried", "gone"
# A row to do: a manifest's, why, and the run whose row it replaces (null: none).
TODO_SCHEMA = pa.schema(
    [*MANIFEST_SCHEMA, pa.field("kind", pa.string()), pa.field("old_run_id", pa.string())]
)
IDS = pa.schema([pa.field("image_id", pa.int64())])
_MB_PER_THREAD = 256  # with less, threads that each hold partitions run out of the limit


class Comparison:
    """Listing and known rows, brought in once, and what follows from them.

    Args:
        folder: Local, empty, and deleted by who made it.
        memory_limit_mb: Of DuckDB.
        check: Called before each statement and each batch; what it raises ends the comparison.
    """

    def __init__(
        self, folder: Path, *, memory_limit_mb: int, check: Callable[[], None] = lambda: None
    ) -> None:
        self.folder, self._check = folder, check
        threads = max(1, min(os.cpu_count() or 1, memory_limit_mb // _MB_PER_THREAD))
        self._connection = duckdb.connect(
            folder / "comparison.duckdb",
            config={
                "memory_limit": f"{memory_limit_mb}MB",
                "temp_directory": str(folder),
                "threads": threads,
                "preserve_insertion_order": True,
            },
        )
        # Names are hashed with a salt that nobody can know in advance: MD5 alone can be made to
        # collide, and an image with the hash of another would count as done.
        salt = secrets.token_hex(16)
        self._run(f"CREATE MACRO hash_of(name) AS md5_number('{salt}' || name)")
        self._listed = Spool(folder / "listed.parquet", 0)
        self._known = Spool(folder / "known.parquet", 0)
        self._has_past = self._is_compared = False

    def __enter__(self) -> Comparison:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def bring_listing(
        self,
        entries: Iterable[FileEntry],
        names: UriNames,
        on_listed: Callable[[int], None] | None = None,
    ) -> Spool:
        """Read the listing to its end.

        Raises:
            FattrError: Whatever ``entries`` raises.
        """
        self._listed = spool_entries(entries, names, self._listed.path, on_listed=on_listed)
        self._view_of("listed", self._listed)
        return self._listed

    def bring_known(
        self,
        known: Iterable[pa.RecordBatch],
        replaced: Iterable[pa.RecordBatch],
        forgotten: pa.Table | None,
    ) -> None:
        """Read the known rows to their end, and what no longer counts."""
        self._known = spool_tables(self._checked(known), KNOWN_SCHEMA, self._known.path)
        self._view_of("known_rows", self._known)
        path = self.folder / "outdated.parquet"
        outdated = spool_tables(self._checked(replaced), REPLACED_SCHEMA, path)
        self._view_of("outdated", outdated)
        ids = IDS.empty_table() if forgotten is None else forgotten.select(IDS.names)
        self._connection.register("forgotten", ids)
        self._has_past = bool(self._known.num_rows or ids.num_rows)
        self._run(
            "CREATE VIEW known AS SELECT * FROM known_rows"
            + " ANTI JOIN outdated USING (run_id, image_id)" * bool(outdated.num_rows)
        )

    # Comparing

    def compare(
        self, *, redo_all: bool, retry_statuses: Sequence[str], with_gone: bool
    ) -> tuple[int, int]:
        """Find what is to be done, and what is gone; how many are listed, and how many to do.

        Where nothing is known or forgotten and the listing is in order, that is all of it.
        """
        if self._listed.is_ascending and not self._has_past:
            return self._listed.num_rows, self._listed.num_rows
        self._name_listed()
        join = "FULL" if with_gone else "LEFT"
        self._run(
            f"""
            CREATE TABLE found AS SELECT * FROM (
                SELECT l.position, k.position AS known_position,
                    CASE WHEN k.position IS NULL THEN '{NEW}'
                        WHEN l.position IS NULL THEN '{GONE}'
                        WHEN l.etag_hash != k.etag_hash THEN '{CHANGED}'
                        WHEN k.is_again THEN '{RETRIED}' END AS kind
                FROM named AS l {join} JOIN (
                    SELECT position, hash_of(image_uri) AS key, hash(etag) AS etag_hash,
                        {redo_all} OR list_contains({_texts(retry_statuses)}, status) AS is_again
                    FROM known
                ) AS k ON l.key = k.key
            ) WHERE kind IS NOT NULL
            """
        )
        # The rest of the known rows' columns, which would only have been in the join's way.
        self._run(
            f"""
            CREATE TABLE older AS
            SELECT f.position, f.kind, k.image_id, k.run_id,
                CASE WHEN f.kind = '{GONE}' THEN k.image_uri END AS image_uri
            FROM known_rows AS k JOIN found AS f ON f.known_position = k.position
            """
        )
        self._is_compared = True
        return self._count("named"), self._count("found WHERE position IS NOT NULL")

    def _name_listed(self) -> None:
        """``named``: each URI once, where it is first, by the hash of its name."""
        named = "SELECT position, hash_of(image_uri) AS key, hash(etag) AS etag_hash FROM listed"
        if self._listed.is_ascending:
            self._run(f"CREATE VIEW named AS {named}")
            return
        self._run(
            f"""
            CREATE TABLE named AS
            SELECT min(position) AS position, key, arg_min(etag_hash, position) AS etag_hash
            FROM ({named}) GROUP BY key
            """
        )

    # What follows

    def rows_to_do(self, limit: int | None) -> Iterator[pa.Table]:
        """``TODO_SCHEMA`` in the order of image_uri, each once; at most ``limit``."""
        if not self._is_compared:
            return self._all_listed(self._listed.num_rows if limit is None else limit)
        order = "position" if self._listed.is_ascending else "image_uri"
        return self._stream(
            f"""
            SELECT {", ".join(TODO_SCHEMA.names)} FROM (
                SELECT l.position, coalesce(o.image_id, l.image_id) AS image_id, l.image_uri,
                    l.fetch_uri, l.size_bytes, l.etag, f.kind, o.run_id AS old_run_id
                FROM found AS f JOIN listed AS l USING (position)
                LEFT JOIN older AS o USING (position)
            ) ANTI JOIN forgotten USING (image_id) ORDER BY {order}
            """,
            TODO_SCHEMA,
            limit=limit,
        )

    def _all_listed(self, limit: int) -> Iterator[pa.Table]:
        """The listing as it is, where it is in order and nothing was done before."""
        for found in self.kept(self._listed):
            rows = found[:limit]
            limit -= rows.num_rows
            if not rows.num_rows:
                return
            kinds = pa.repeat(pa.scalar(NEW), rows.num_rows)
            none = pa.nulls(rows.num_rows, pa.string())
            yield pa.table([*rows.columns, kinds, none], schema=TODO_SCHEMA)

    def rows_with_status(self, statuses: Sequence[str], limit: int | None) -> Iterator[pa.Table]:
        """The known rows with one of these statuses, as ``TODO_SCHEMA`` in the order of image_uri.

        An image keeps id, etag and size.
        """
        return self._stream(
            f"""
            SELECT image_id, image_uri, NULL AS fetch_uri, size_bytes, etag, '{RETRIED}' AS kind,
                run_id AS old_run_id
            FROM known ANTI JOIN forgotten USING (image_id)
            WHERE list_contains({_texts(statuses)}, status) ORDER BY image_uri
            """,
            TODO_SCHEMA,
            limit=limit,
        )

    def gone(self, scope: Sequence[str], schema: pa.Schema) -> Iterator[pa.Table]:
        """Known images below one of the places of ``scope`` that are not listed, in order.

        Args:
            scope: Canonical URIs; an empty one is everywhere.
            schema: Columns of ``catalog.KNOWN_SCHEMA``.
        """
        if not self._is_compared:
            return iter(())
        places = [
            f"image_uri = {_text(root)} OR starts_with(image_uri, {_text(_folder(root))})"
            for root in scope
        ]
        return self._stream(
            f"""
            SELECT {", ".join(schema.names)} FROM older ANTI JOIN forgotten USING (image_id)
            WHERE kind = '{GONE}' AND ({" OR ".join(places) or "false"}) ORDER BY image_uri
            """,
            schema,
        )

    def other_ids(self, names: UriNames) -> Mapping[str, int]:
        """Ids of new images whose own id another image has, by image_uri; hardly ever any.

        The first of several new images keeps its id, unless a known one has it.
        """
        self._view_of_new()
        self._run(
            """
            CREATE TABLE clashes AS
            SELECT image_id, false AS is_known FROM new_images GROUP BY image_id HAVING count(*) > 1
            UNION ALL
            SELECT DISTINCT k.image_id, true FROM known_rows AS k JOIN new_images USING (image_id)
            """
        )
        rows = self._rows("SELECT DISTINCT image_id FROM clashes WHERE is_known")
        used = {image_id for (image_id,) in rows}
        found: dict[str, int] = {}
        for uri, own_id in self._rows(
            """
            SELECT image_uri, image_id FROM new_images SEMI JOIN clashes USING (image_id)
            ORDER BY image_uri
            """
        ):
            number, count = own_id, 0
            while number in used or (count and self._has_id(number)):
                count += 1
                number = names.other_id(uri, count)
            used.add(number)
            if count:
                found[uri] = number
        return found

    def _view_of_new(self) -> None:
        new = "SELECT l.image_id, l.image_uri FROM listed AS l"
        if self._is_compared:
            new += f" JOIN found AS f USING (position) WHERE f.kind = '{NEW}'"
        self._run(f"CREATE VIEW new_images AS {new}")

    def _has_id(self, number: int) -> bool:
        held = "SELECT image_id FROM new_images UNION ALL SELECT image_id FROM known_rows"
        return bool(self._rows(f"SELECT 1 FROM ({held}) WHERE image_id = {number} LIMIT 1"))

    def kept(self, spool: Spool) -> Iterator[pa.Table]:
        """The rows of a file in the folder, in the order kept, some at a time."""
        for rows in read_spool(spool):
            self._check()
            yield rows

    # DuckDB

    def _view_of(self, name: str, spool: Spool) -> None:
        self._run(
            f"CREATE VIEW {name} AS SELECT *, file_row_number AS position"
            f" FROM read_parquet({_text(str(spool.path))}, file_row_number = true)"
        )

    def _checked(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
        for batch in batches:
            self._check()
            yield pa.Table.from_batches([batch])

    def _run(self, sql: str) -> None:
        self._check()
        self._connection.execute(sql)

    def _rows(self, sql: str) -> list[Any]:
        return self._connection.execute(sql).fetchall()

    def _count(self, rows: str) -> int:
        return int(self._rows(f"SELECT count(*) FROM {rows}")[0][0])

    def _stream(
        self,
        sql: str,
        schema: pa.Schema,
        *,
        limit: int | None = None,
    ) -> Iterator[pa.Table]:
        relation = self._connection.sql(sql if limit is None else f"{sql} LIMIT {limit}")
        for rows in self._checked(relation.to_arrow_reader(ROWS_PER_BATCH)):
            yield rows.cast(schema)


def _text(value: str) -> str:
    """A literal: a streamed query with parameters would be held in memory as a whole."""
    return "'" + value.replace("'", "''") + "'"


def _texts(values: Iterable[str]) -> str:
    return f"[{', '.join(map(_text, values))}]::VARCHAR[]"


def _folder(uri: str) -> str:
    return uri if not uri or uri.endswith("/") else f"{uri}/"
