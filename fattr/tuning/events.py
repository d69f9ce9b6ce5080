"""An epoch's figures as TensorBoard reads them, made in memory: a full /tmp ends no search."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

VERSION = "brain.Event:2"  # of the format, as each file's first event says it


def events(row: Mapping[str, float]) -> bytes:
    """The content of an events file with one scalar for each figure, at step ``row["epoch"]``."""
    scalars = Summary(value=[Summary.Value(tag=n, simple_value=v) for n, v in row.items()])
    file, now = io.BytesIO(), time.time()
    writer = RecordWriter(file)
    writer.write(Event(wall_time=now, file_version=VERSION).SerializeToString())
    figures = Event(wall_time=now, step=int(row["epoch"]), summary=scalars)
    writer.write(figures.SerializeToString())
    return file.getvalue()
