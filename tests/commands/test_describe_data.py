"""``fattr describe-data`` on drawn faces, its figures computed again by others."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import matthews_corrcoef

from fattr import tables
from fattr.attributes import AGE, attribute
from fattr.cli import run_job
from fattr.commands.describe_data import coverage_figures
from fattr.datasets import synthetic
from fattr.datasets.split import DatasetSplit
from fattr.records import Sample

NUM_IMAGES = 120
DAMAGED, MISSING, COPY, ORIGINAL = "000003.png", "000004.png", "000000.png", "000009.png"


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory) -> Path:
    """Sound data."""
    folder = tmp_path_factory.mktemp("faces")
    synthetic.write(folder, NUM_IMAGES, seed=5, image_px=48)
    return folder


@pytest.fixture(scope="module")
def damaged_dir(faces_dir, tmp_path_factory) -> Path:
    """A damaged and a missing image in train, and a copy of one of test; one of another size."""
    folder = tmp_path_factory.mktemp("damaged") / "faces"
    shutil.copytree(faces_dir, folder)
    images = folder / "images"
    (images / DAMAGED).write_bytes(b"no picture")
    (images / MISSING).unlink()
    shutil.copy(images / ORIGINAL, images / COPY)
    Image.open(images / "000001.png").resize((64, 50)).save(images / "000001.png")
    return folder


def describe(data: str, output: Path, *flags: str) -> int:
    return run_job("describe-data", ["--data", data, "--output", str(output), *flags])


@pytest.fixture(scope="module")
def described(damaged_dir, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("card") / "out"
    assert describe(f"synthetic:{damaged_dir}", output) == 0
    return output


@pytest.fixture(scope="module")
def data(described) -> dict:
    return json.loads((described / "data.json").read_text())


@pytest.fixture(scope="module")
def labels(damaged_dir) -> pd.DataFrame:
    return pd.read_csv(damaged_dir / "labels.csv")


def test_all_files_are_there(described):
    assert sorted(path.name for path in described.iterdir()) == [
        "DATA_CARD.md",
        "_SUCCESS",
        "coverage.png",
        "data.json",
        "facts.parquet",
        "facts.png",
        "phi.png",
        "prevalence.png",
        "sizes.png",
    ]
    card = (described / "DATA_CARD.md").read_text()
    pictures = re.findall(r"\]\((.+?)\)", card)
    assert all((described / name).is_file() for name in pictures)
    assert len(pictures) == 5


def test_counts_and_problems_are_those_of_the_folder(data):
    assert data["splits"]["train"]["images"] == NUM_IMAGES * 8 // 10
    assert data["splits"]["train"]["status"] == {
        "ok": NUM_IMAGES * 8 // 10 - 2,
        "unreadable": 1,
        "missing": 1,
    }
    assert data["splits"]["test"]["status"] == {"ok": NUM_IMAGES // 10}
    assert [(one["kind"], one["text"]) for one in data["problems"]] == [
        ("unreadable", f"images/{DAMAGED} of train: not a supported image: unknown"),
        ("missing", f"images/{MISSING} of train: No such file or directory"),
        ("leak", f"images/{COPY} of train is also in test: images/{ORIGINAL}"),
    ]


def test_prevalence_and_missing_labels_are_those_of_pandas(data, labels):
    for name, figures in data["attributes"].items():
        for split, own in labels.groupby("split")[name]:
            found = figures["splits"][split]
            assert (found["n"], found["missing"]) == (own.count(), own.isna().sum())
            assert found["classes"]["true"]["count"] == own.sum()
            assert found["classes"]["true"]["share"] == pytest.approx(own.mean())
    assert data["attributes"]["black_hair"]["splits"]["train"]["missing"] > 0


def test_phi_is_over_all_splits(data, labels):
    names, values = data["phi"]["labels"], data["phi"]["values"]
    assert sorted(names) == sorted(data["attributes"])
    for i, first in enumerate(names):
        for j, second in enumerate(names):
            both = labels[[first, second]].dropna()
            if both.empty or both.nunique().min() < 2:
                assert values[i][j] is None
            else:
                wanted = matthews_corrcoef(both.iloc[:, 0], both.iloc[:, 1])
                assert values[i][j] == pytest.approx(wanted, abs=1e-9)
    assert any(value is None for row in values for value in row)


def test_coverage_is_the_cross_table_of_pandas(data, labels):
    coverage = data["coverage"]
    assert set(coverage["columns"]) == {"skin_tone", "head"}
    rows, columns = coverage["columns"]
    for split, cells in coverage["splits"].items():
        own = labels[labels["split"] == split]
        theirs = pd.crosstab(own[rows], own[columns]).reindex(
            index=coverage["columns"][rows], columns=coverage["columns"][columns], fill_value=0
        )
        assert cells == theirs.to_numpy().tolist()


def test_facts_have_a_row_an_image_and_no_pixels(described, damaged_dir, labels):
    table = pq.read_table(described / "facts.parquet")
    assert table.schema.equals(tables.FACTS, check_metadata=True)
    rows = {row["image_uri"].rpartition("/")[2]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows == NUM_IMAGES
    assert [rows[file]["split"] for file in labels["file"]] == labels["split"].tolist()
    for file, row in rows.items():
        path = damaged_dir / "images" / file
        if file == MISSING:
            assert (row["status"], row["sha256"], row["size_bytes"]) == ("missing", None, None)
            continue
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["size_bytes"] == path.stat().st_size
        if file == DAMAGED:
            assert (row["status"], row["width"]) == ("unreadable", None)
            continue
        picture = Image.open(path)
        assert (row["width"], row["height"]) == picture.size
        assert row["brightness"] == pytest.approx(np.asarray(picture.convert("L")).mean(), abs=1.5)


def test_quantiles_and_sizes_are_those_of_the_facts(described, data):
    facts = pq.read_table(described / "facts.parquet").to_pandas()
    own = facts[(facts["split"] == "train") & (facts["status"] == "ok")]
    for name in ("width", "brightness", "contrast", "sharpness"):
        wanted = np.percentile(own[name], [5, 25, 50, 75, 95])
        assert list(data["facts"]["train"][name].values()) == pytest.approx(wanted, rel=1e-5)
    assert data["sizes"]["train"] == {
        "distinct": 2,
        "most_frequent": [
            {"width": 48, "height": 48, "images": len(own) - 1},
            {"width": 64, "height": 50, "images": 1},
        ],
    }


def test_nothing_but_the_facts_names_the_folder(described, damaged_dir):
    for name in ("DATA_CARD.md", "data.json"):
        assert str(damaged_dir) not in (described / name).read_text()
    assert (
        damaged_dir.as_uri() in pq.read_table(described / "facts.parquet")["image_uri"][0].as_py()
    )


def test_sound_data_has_a_card_without_problems_or_a_plot_of_one_size(faces_dir, tmp_path):
    output = tmp_path / "out"
    assert describe(f"synthetic:{faces_dir}", output, "--limit", "10") == 0
    found = json.loads((output / "data.json").read_text())
    assert found["problems"] == []
    assert [one["images"] for one in found["splits"].values()] == [10, 10, 10]
    assert found["command"] == ("fattr describe-data --data synthetic:DIR --limit 10 --output DIR")
    assert not (output / "sizes.png").exists()
    assert "None: every image is there" in (output / "DATA_CARD.md").read_text()


def test_splits_that_are_not_there_are_told(faces_dir, tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    (folder / "images").symlink_to(faces_dir / "images")
    table = pd.read_csv(faces_dir / "labels.csv", dtype=str)
    table[table["split"] != "test"].to_csv(folder / "labels.csv", index=False)
    output = tmp_path / "out"
    assert describe(f"synthetic:{folder}", output) == 0
    found = json.loads((output / "data.json").read_text())
    assert list(found["splits"]) == ["train", "valid"]
    assert (
        "No split test: synthetic: split 'test' holds no image"
        in (output / "DATA_CARD.md").read_text()
    )


def test_a_data_set_of_which_no_image_is_there_still_has_a_card(faces_dir, tmp_path):
    shutil.copy(faces_dir / "labels.csv", tmp_path)
    output = tmp_path / "out"
    assert describe(f"synthetic:{tmp_path}", output) == 0
    card = (output / "DATA_CARD.md").read_text()
    assert "No image could be decoded." in card
    assert f"Images that are missing: {NUM_IMAGES}" in card
    assert "and 95 more, in `data.json`" in card


def test_a_used_output_is_refused_and_kept(described, faces_dir, capfd):
    before = (described / "data.json").read_bytes()
    assert describe(f"synthetic:{faces_dir}", described) == 2
    assert re.fullmatch(
        r"fattr describe-data: --output .* holds a run already.*\n", capfd.readouterr().err
    )
    assert (described / "data.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--data", "celebb:/nowhere"], "did you mean 'celeba'", id="data-set"),
        pytest.param(["--data", "celeba:/nowhere"], "label file expected at", id="folder"),
        pytest.param(["--data", "celeba"], "NAME:DIR", id="no-folder"),
        pytest.param(["--limit", "0"], "--limit must be 1 or more", id="limit"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(faces_dir, tmp_path, capfd, flags, message):
    output = tmp_path / "out"
    assert describe(f"synthetic:{faces_dir}", output, *flags) == 2
    error = capfd.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


# What coverage crosses


def split_with(groups, targets=None):
    targets = targets or [{}] * len(groups)
    return DatasetSplit(
        name="drawn",
        split="train",
        attributes=(AGE, attribute("smiling")),
        samples=tuple(
            Sample(f"file:///{i}.jpg", target, group)
            for i, (group, target) in enumerate(zip(groups, targets, strict=True))
        ),
        licence="for tests",
        research_only=False,
    )


def test_coverage_takes_labels_with_classes_in_their_order():
    split = split_with([{"race": "a"}, {"race": "b"}, {"race": "a"}], [{"age": 8}, {"age": 1}, {}])
    coverage = coverage_figures([split])
    assert coverage["columns"] == {"race": ["a", "b"], "age": list(AGE.classes)}
    cells = np.array(coverage["splits"]["train"])
    assert (cells[0, 8], cells[1, 1], cells.sum()) == (1, 1, 2)


def test_coverage_leaves_out_columns_of_one_or_very_many_values_and_a_fourth():
    groups = [
        {"photo": str(i), "country": "x", "a": str(i % 2), "b": str(i % 4), "c": str(i % 3)}
        for i in range(24)
    ]
    coverage = coverage_figures([split_with(groups, [{"age": i % 9} for i in range(24)])])
    assert list(coverage["columns"]) == ["a", "b", "age"]
    assert coverage["left_out"] == ["photo", "country", "c"]
    assert np.sum(coverage["splits"]["train"]) == 24


def test_a_group_column_whose_values_are_no_classes_is_sorted():
    split = split_with([{"age": "38"}, {"age": "9"}], [{}, {}])
    assert coverage_figures([split])["columns"]["age"] == ["38", "9"]


def test_one_yes_no_label_from_anywhere_has_a_card_without_paths(faces_dir, tmp_path):
    """The mapping file is named itself, and its pictures are listed by absolute path."""
    rows = (faces_dir / "labels.csv").read_text().splitlines()[1:]
    files = [row.split(",")[0] for row in rows]
    lines = [f"{faces_dir}/images/{name},{i % 2}" for i, name in enumerate(files)]
    (tmp_path / "mine").mkdir()
    lines.append(f"{faces_dir}/images/none.png,1")
    (tmp_path / "mine" / "faces.csv").write_text("\n".join(["file,smiling", *lines]))
    mapping = tmp_path / "mine" / "my.toml"
    mapping.write_text('table = "faces.csv"\nimage = "file"\nlicence = "drawn"\n[labels.smiling]\n')
    output = tmp_path / "out"
    assert describe(f"table:{mapping}", output) == 0
    said = (output / "DATA_CARD.md").read_text() + (output / "data.json").read_text()
    assert json.loads((output / "data.json").read_text())["coverage"]["columns"] == {}
    assert ".../none.png" in said
    assert str(tmp_path) not in said
    assert str(faces_dir) not in said
