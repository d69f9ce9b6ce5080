"""The questions of docs/queries.md: SQL, pandas and a count by hand agree, on known rows."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from small_output import Photo, add_run

import fattr
from fattr import storage
from fattr.attributes import attribute
from fattr.published.catalog import write_views
from fattr.runs.run import finished_runs

TEXT = (Path(__file__).parents[1] / "docs" / "queries.md").read_text()
ATTRIBUTES = tuple(
    attribute(name)
    for name in (
        "smiling",
        "eyeglasses",
        "mouth_slightly_open",
        "perceived_gender_presentation",
        "age",
    )
)
AGE = attribute("age")
READ = ("ok", "no_face")
FIRST, SECOND, DEAD = (f"202611{day}T211700Z-3f9c1a" for day in (23, 24, 25))


def questions() -> dict[str, dict[str, str]]:
    """Heading -> language -> code, of the sections that have both."""
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    blocks = {
        section.partition("\n")[0]: dict(re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL))
        for section in sections
    }
    return {heading: code for heading, code in blocks.items() if code}


# Tables of known rows


def draw_face(draw: random.Random) -> dict[str, Any]:
    face_px = draw.choice([12.0, 31.5, 32.0, 33.0, 80.0, 200.0])

    def maybe(value: Any) -> Any:
        return None if face_px < 32 or draw.random() < 0.2 else value

    weights = [draw.random() for _ in AGE.classes]
    smiling = draw.random() < 0.6
    return {
        "face_px": face_px,
        "smiling": maybe(smiling),
        "eyeglasses": maybe(draw.random() < 0.3),
        "mouth_slightly_open": maybe(draw.random() < (0.7 if smiling else 0.2)),
        "perceived_gender_presentation": maybe(draw.choice(["feminine", "masculine"])),
        "age": maybe(draw.uniform(0, 79)),
        "age_probs": [weight / sum(weights) for weight in weights],
    }


def draw_photo(draw: random.Random, number: int) -> Photo:
    uri = f"s3://b/{draw.choice(['old', 'new/2026', 'ü x'])}/{number:03d}.jpg"
    status = draw.choice(["ok", "ok", "ok", "no_face", "unreadable", "missing"])
    count = draw.choice([1, 1, 2, 3, 4]) if status == "ok" else 0
    return Photo(uri, [draw_face(draw) for _ in range(count)], status)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> tuple[str, list[tuple[Photo, str]]]:
    """An OUTPUT, and the newest photographs of its finished runs with the run's day."""
    draw, output = random.Random(11), str(tmp_path_factory.mktemp("output"))
    first = [draw_photo(draw, number) for number in range(150)]
    again = [Photo(p.uri, [draw_face(draw)], "ok") for p in draw.sample(first, 20)]
    second = [*again, *(draw_photo(draw, number) for number in range(150, 220))]
    redone = [(FIRST, photo.uri) for photo in again]
    add_run(output, FIRST, first, attributes=ATTRIBUTES)
    add_run(output, SECOND, second, replaced=redone, attributes=ATTRIBUTES)
    dead = add_run(output, DEAD, [draw_photo(draw, 999)], attributes=ATTRIBUTES)
    files, path = storage.filesystem(dead.file("_SUCCESS"))
    files.delete_file(path)
    replaced = {photo.uri for photo in again}
    newest = [(photo, "2026-11-23") for photo in first if photo.uri not in replaced]
    return output, newest + [(photo, "2026-11-24") for photo in second]


# The answers, by hand


def share(values: Iterable[Any]) -> float:
    values = list(values)
    return sum(map(bool, values)) / len(values) if values else float("nan")


def beside(photos: list[Photo], faces: list[dict], *names: str) -> dict[str, float]:
    """What stands beside every share; a face counts as labelled where all ``names`` are."""
    small = [face["face_px"] < 32 for face in faces]
    labelled = [all(face[name] is not None for name in names) for face in faces]
    pairs = zip(small, labelled, strict=True)
    return {
        "coverage": share(labelled),
        "too_small": share(small),
        "undecided": share(not a and not b for a, b in pairs),
        "unread": share(photo.status not in READ for photo in photos),
    }


def labelled_share(faces: list[dict], name: str) -> float:
    return share(face[name] for face in faces if face[name] is not None)


def grouped(faces: list[dict], key: Callable[[dict], Any]) -> dict[Any, list[dict]]:
    groups: dict[Any, list[dict]] = {}
    for face in faces:
        groups.setdefault(key(face), []).append(face)
    return groups


def by_group(photos: list[Photo], key: Callable[[dict], Any], label: str) -> list[tuple[Any, dict]]:
    faces = [face for photo in photos for face in photo.faces]
    return [
        (
            group,
            {"num_faces": len(own), f"{label}_share": labelled_share(own, label)}
            | beside(photos, own, label),
        )
        for group, own in grouped(faces, key).items()
    ]


def smiles(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    photos = [photo for photo, _ in rows]
    return by_group(photos, lambda face: face["perceived_gender_presentation"], "smiling")


def glasses(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    photos = [photo for photo, _ in rows]

    def decade(face: dict) -> int | None:
        return None if face["age"] is None else int(face["age"]) // 10 * 10

    return by_group(photos, decade, "eyeglasses")


def ages(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    photos = [photo for photo, _ in rows]
    faces = [face for photo in photos for face in photo.faces]
    labelled = [face for face in faces if face["age"] is not None]
    large = [face for face in faces if face["face_px"] >= 32]
    answer = []
    for place, age_bin in enumerate(AGE.classes):
        own = [f for f in labelled if f["age_probs"][place] == max(f["age_probs"])]
        figures = {
            "num_faces": len(own),
            "share": len(own) / len(labelled),
            "expected_share": sum(face["age_probs"][place] for face in large) / len(large),
        }
        answer.append((age_bin, figures | beside(photos, faces, "age")))
    return answer


def people(photo: Photo) -> str:
    kinds = [face["perceived_gender_presentation"] for face in photo.faces]
    if len(kinds) < 2:
        return "one face" if kinds else "nobody"
    if {"feminine", "masculine"} <= set(kinds):
        return "several: mixed"
    return "several: undecided" if None in kinds else f"several: {kinds[0]}"


def together(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    photos = [photo for photo, _ in rows]
    seen = sorted((photo for photo in photos if photo.status in READ), key=people)
    answer = []
    for group, own in itertools.groupby(seen, people):
        chosen = list(own)
        faces = [face for photo in chosen for face in photo.faces]
        figures = {"num_images": len(chosen), "share": len(chosen) / len(seen)}
        answer.append((group, figures | beside(photos, faces, "perceived_gender_presentation")))
    return answer


def folders(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    def key(row: tuple[Photo, str]) -> tuple[str, str]:
        return row[1], row[0].uri.rpartition("/")[0]

    answer = []
    for group, own in itertools.groupby(sorted(rows, key=key), key):
        photos = [photo for photo, _ in own]
        faces = [face for photo in photos for face in photo.faces]
        figures = {
            "num_images": len(photos),
            "num_faces": len(faces),
            "smiling_share": labelled_share(faces, "smiling"),
        }
        answer.append((group, figures | beside(photos, faces, "smiling")))
    return answer


def pairs(rows: list[tuple[Photo, str]]) -> list[tuple[Any, dict]]:
    photos = [photo for photo, _ in rows]
    faces = [face for photo in photos for face in photo.faces]
    names = ("smiling", "mouth_slightly_open")
    known = [face for face in faces if None not in (face[names[0]], face[names[1]])]
    both, one, other = (
        share(face[names[0]] and face[names[1]] for face in known),
        share(face[names[0]] for face in known),
        share(face[names[1]] for face in known),
    )
    figures = {"num_faces": len(known), "both_share": both, "smiling_share": one}
    figures |= {"open_share": other, "lift": both / (one * other)}
    return [((), figures | beside(photos, faces, *names))]


BY_HAND = {
    "Who smiles, by perceived presentation?": (("presentation",), smiles),
    "How old are the people in the pictures?": (("age_bin",), ages),
    "Who wears glasses, by age?": (("decade",), glasses),
    "Who is in a picture together?": (("people",), together),
    "What changes from folder to folder, or from night to night?": (("dt", "folder"), folders),
    "Which labels go together?": ((), pairs),
}


def plain(value: Any) -> Any:
    """A group's name as the count by hand has it, whatever the library made of it."""
    if not isinstance(value, str) and pd.isna(value):
        return None
    if isinstance(value, str):
        return value
    return int(value) if isinstance(value, int | float) else str(value)[:10]


def as_answer(frame: pd.DataFrame, keys: tuple[str, ...]) -> dict[Any, dict[str, float]]:
    """Group -> its figures."""
    rows = frame.to_dict("records")
    names = [tuple(plain(row.pop(key)) for key in keys) for row in rows]
    assert len(set(names)) == len(names)
    return dict(zip(names, rows, strict=True))


def assert_agree(found: dict[Any, dict], wanted: list[tuple[Any, dict]]) -> None:
    told = {group if isinstance(group, tuple) else (group,): figures for group, figures in wanted}
    assert found.keys() == told.keys()
    for group, figures in told.items():
        assert set(found[group]) == set(figures)
        numbers = {name: float(found[group][name]) for name in figures}
        assert numbers == pytest.approx(figures, rel=1e-5, abs=1e-6, nan_ok=True), group


def test_each_question_is_asked_in_both_languages():
    found = questions()
    assert found.keys() == BY_HAND.keys()
    assert all(set(code) == {"sql", "python"} for code in found.values())
    assert TEXT.count("```") == 2 * 2 * len(BY_HAND)


@pytest.mark.parametrize("heading", BY_HAND)
def test_sql_agrees_with_a_count_by_hand(known, heading):
    output, rows = known
    keys, count = BY_HAND[heading]
    frame = fattr.open_tables(output).sql(questions()[heading]["sql"].strip().rstrip(";")).df()
    assert_agree(as_answer(frame, keys), count(rows))


@pytest.mark.parametrize("heading", BY_HAND)
def test_pandas_agrees_with_a_count_by_hand(known, heading):
    output, rows = known
    keys, count = BY_HAND[heading]
    names: dict[str, Any] = {"tables": fattr.open_tables(output)}
    exec(questions()[heading]["python"], names)
    answer = names["answer"]
    if keys and not set(keys) <= set(answer.columns):
        answer = answer.rename_axis(list(keys)).reset_index()
    assert_agree(as_answer(answer, keys), count(rows))


@pytest.mark.parametrize("heading", BY_HAND)
def test_plain_duckdb_agrees_with_a_count_by_hand(known, heading):
    output, rows = known
    place = storage.canonical_uri(output)
    write_views(place, finished_runs(place))
    keys, count = BY_HAND[heading]
    with duckdb.connect() as connection:
        connection.execute((Path(output) / "views.sql").read_text())
        frame = connection.sql(questions()[heading]["sql"].strip().rstrip(";")).df()
    assert_agree(as_answer(frame, keys), count(rows))


def test_the_known_rows_are_of_every_kind(known):
    kinds = {group for group, _ in together(known[1])}
    several = {f"several: {kind}" for kind in ("mixed", "undecided", "feminine", "masculine")}
    assert kinds == {"nobody", "one face", *several}
    assert None in {group for group, _ in smiles(known[1])}
    for count in (smiles, ages, glasses, folders, pairs):
        for _, figures in count(known[1]):
            total = figures["coverage"] + figures["too_small"] + figures["undecided"]
            assert total == pytest.approx(1)
            assert figures["unread"] > 0
