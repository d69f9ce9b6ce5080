"""Patterns, against pathlib and against what is written down."""

from __future__ import annotations

import random
from pathlib import PurePosixPath

import pytest

from fattr.errors import UsageError
from fattr.sources.globs import uri_filter

ROOT = "s3://bucket/photos"


def matches(pattern: str, path: str) -> bool:
    return uri_filter(ROOT, include=[pattern])(f"{ROOT}/{path}")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.jpg", "a.jpg", True),
        ("*.jpg", "deep/er/a.jpg", True),
        ("*.jpg", "a.JPG", False),
        ("*.jpg", "a.jpg.txt", False),
        ("*", "a/b", True),
        ("a", "a/b", False),  # a folder of that name
        ("a/*", "a/b", True),
        ("a/*", "a/b/c", False),
        ("a/*", "x/a/b", False),
        ("a/**", "a/b/c", True),
        ("a/", "a/b/c", True),
        ("a/", "ab/c", False),
        ("**/c", "c", True),
        ("**/c", "a/b/c", True),
        ("a/**/c", "a/c", True),
        ("a/**/c", "a/b/b/c", True),
        ("a/**/c", "ac", False),
        ("/a/*", "a/b", True),
        ("a?.jpg", "ab.jpg", True),
        ("a/?", "a//", False),
        ("[ab].jpg", "b.jpg", True),
        ("[!ab].jpg", "b.jpg", False),
        ("*.{jpg,png}", "x.png", True),
        ("*.{jpg,png}", "x.gif", False),
        ("a+(1).jpg", "a+(1).jpg", True),
        ("100%.jpg", "100%.jpg", True),
        ("é*", "é1", True),
        ("*", ".hidden", True),
        ("a\nb", "a\nb", True),
        ("*b", "a\nb", True),
        ("!a", "b", False),
    ],
)
def test_patterns(pattern, path, expected):
    assert matches(pattern, path) is expected


def test_names_like_pathlib():
    """``PurePath.match`` without slashes is the same rule; brackets and braces aside."""
    draw = random.Random(0)
    outcomes = set()
    for _ in range(3000):
        pattern = "".join(draw.choices("ab.*?", k=draw.randint(1, 4)))
        name = "".join(draw.choices("ab.", k=draw.randint(1, 4)))
        if pattern.strip(".") and name.strip("."):  # . and .. are no files
            expected = PurePosixPath(name).match(pattern)
            outcomes.add(expected)
            assert matches(pattern, f"x/{name}") is expected, (pattern, name)
    assert outcomes == {True, False}


def test_exclude_wins():
    is_meant = uri_filter(ROOT, include=["*.jpg", "*.png"], exclude=["no/**", "b.*"])
    names = ["a.jpg", "a.png", "a.gif", "b.jpg", "no/a.jpg", "yes/no/a.jpg"]
    assert [is_meant(f"{ROOT}/{name}") for name in names] == [True, True, False, False, False, True]


def test_without_patterns_there_is_no_filter():
    assert uri_filter(ROOT) is None


def test_local_names_are_not_encoded():
    is_meant = uri_filter("file:///a%20b", include=["c d/1%.jpg"])
    assert is_meant("file:///a%20b/c%20d/1%25.jpg")
    assert not is_meant("file:///a%20b/c%2520d/1%25.jpg")


def test_a_whole_disk():
    assert uri_filter("file:///", include=["a/*"])("file:///a/b")


def test_one_file_goes_by_its_name():
    assert uri_filter(f"{ROOT}/a.jpg", include=["*.jpg"])(f"{ROOT}/a.jpg")
    assert not uri_filter(f"{ROOT}/a.jpg", include=["photos/*"])(f"{ROOT}/a.jpg")


def test_without_a_root_the_path_is_whole():
    is_meant = uri_filter(None, include=["photos/*"])
    assert [is_meant(u) for u in ("s3://b/photos/a", "s3://b/x/photos/a", "file:///photos/a")] == [
        True,
        False,
        True,
    ]


@pytest.mark.parametrize(("pattern", "message"), [("", "names no file"), ("/", "names no file")])
def test_an_empty_pattern(pattern, message):
    with pytest.raises(UsageError, match=message):
        uri_filter(ROOT, exclude=[pattern])


def test_too_many_alternatives():
    with pytest.raises(UsageError, match="stands for too many"):
        uri_filter(ROOT, include=["{1..100000}"])
