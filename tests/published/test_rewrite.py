"""A file without some rows keeps its form."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from fattr.published.rewrite import without_rows


def test_a_file_keeps_its_form():
    schema = pa.schema(
        [
            pa.field("image_id", pa.int64(), nullable=False),
            pa.field("image_uri", pa.string(), metadata={"a": "b"}),
            pa.field("points", pa.list_(pa.float32(), 2)),
            pa.field("label", pa.string()),
        ],
        metadata={"fattr.schema": "x/1"},
    )
    rows = [
        {"image_id": n, "image_uri": f"u{n:02d}", "points": [n, n], "label": "ab"[n % 2]}
        for n in range(30)
    ]
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, schema),
        sink,
        row_group_size=10,
        compression={
            "image_id": "none",
            "image_uri": "zstd",
            "points.list.element": "snappy",
            "label": "zstd",
        },
        use_dictionary=["label"],
        write_statistics=["image_uri"],
        sorting_columns=[pq.SortingColumn(1)],
    )
    data = sink.getvalue().to_pybytes()
    gone = pa.array([3, 4, *range(10, 20)])
    kept, num_kept, num_dropped = without_rows(data, lambda t: pc.is_in(t["image_id"], gone))
    assert (num_kept, num_dropped) == (18, 12)
    old, new = (pq.ParquetFile(pa.BufferReader(d)) for d in (data, kept))
    assert new.read().to_pylist() == [
        row for row in rows if row["image_id"] not in gone.to_pylist()
    ]
    assert new.schema_arrow.equals(old.schema_arrow, check_metadata=True)
    assert [new.metadata.row_group(n).num_rows for n in range(2)] == [8, 10]
    for number in range(4):
        a, b = (part.metadata.row_group(0).column(number) for part in (old, new))
        assert a.compression == b.compression
        assert a.has_dictionary_page == b.has_dictionary_page
        assert a.is_stats_set == b.is_stats_set
    assert new.metadata.row_group(0).sorting_columns == old.metadata.row_group(0).sorting_columns


@pytest.mark.parametrize("num_rows", [0, 5])
def test_a_file_may_lose_all_its_rows(num_rows):
    table = pa.table({"image_id": pa.array(range(num_rows), pa.int64())})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    kept, num_kept, num_dropped = without_rows(
        sink.getvalue().to_pybytes(), lambda rows: pc.is_valid(rows["image_id"])
    )
    assert (num_kept, num_dropped) == (0, num_rows)
    assert pq.read_table(pa.BufferReader(kept)).equals(table.slice(0, 0))
