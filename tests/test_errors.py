import pickle

import pytest

from fattr import errors
from fattr.errors import (
    CannotTrainError,
    FattrError,
    ImageError,
    RunError,
    StorageError,
    UsageError,
)

EXAMPLES = [
    pytest.param(FattrError("plain"), "plain", id="FattrError"),
    pytest.param(UsageError("bad flag"), "bad flag", id="UsageError"),
    pytest.param(RunError("disk full"), "disk full", id="RunError"),
    pytest.param(CannotTrainError("NaN"), "NaN", id="CannotTrainError"),
    pytest.param(ImageError("unreadable", "cut off"), "unreadable: cut off", id="ImageError"),
    pytest.param(
        StorageError("missing", "s3://b/k", "no such key"),
        "s3://b/k: missing: no such key",
        id="StorageError",
    ),
]


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_an_error_survives_the_trip_between_processes(error, text):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error) == text
    assert vars(again) == vars(error)


def test_every_error_is_tried_above_and_is_one_of_ours():
    classes = {c for c in vars(errors).values() if isinstance(c, type)}
    assert classes == {type(example.values[0]) for example in EXAMPLES}
    assert all(issubclass(c, FattrError) for c in classes)
