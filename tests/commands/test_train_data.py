"""What ``jobs/train.py`` does to its data before it crops, which needs no running Ray."""

from __future__ import annotations

import csv
import dataclasses
import logging
import shutil
from pathlib import Path

import pytest

from fattr.attributes import Attribute, Kind, attribute
from fattr.cli import run_job
from fattr.commands import train_data
from fattr.commands.train_data import (
    check_data,
    choose_attributes,
    held_out_splits,
    read_split,
    refuse_unlabelled,
)
from fattr.config import TrainConfig
from fattr.crop import named_rule
from fattr.datasets import DatasetSplit, read_dataset, synthetic
from fattr.errors import UsageError
from fattr.labelled_crops import StreamedCrops
from fattr.presets import train_preset
from fattr.records import Sample


@pytest.fixture
def faces_dir(tmp_path) -> Path:
    synthetic.write(tmp_path / "faces", 50, seed=2, image_px=24)
    return tmp_path / "faces"


def splits_of(folder: Path, *names: str):
    return [[read_dataset(f"synthetic:{folder}", name)] for name in names]


def names_of(splits) -> list[str]:
    return [Path(sample.image_uri).name for split in splits for sample in split.samples]


def train(folder: Path, output: Path) -> int:
    argv = ["--preset", "tiny", "--data", f"synthetic:{folder}", "--output", str(output)]
    return run_job("train", argv)


def test_all_missing_and_damaged_images_are_refused_before_anything_is_cropped(
    faces_dir, tmp_path, capfd
):
    (faces_dir / "images" / "000003.png").write_bytes(b"no picture")
    (faces_dir / "images" / "000004.png").unlink()
    (faces_dir / "images" / "000008.png").write_bytes(b"")  # of valid
    assert train(faces_dir, tmp_path / "out") == 2
    first, *lines = capfd.readouterr().err.splitlines()
    assert first == (
        "fattr train: 3 problems in the labelled data: mend or remove them; "
        "fattr describe-data --data NAME:DIR --output DIR lists all"
    )
    images = (faces_dir / "images").as_uri()
    assert lines == [
        f"  unreadable: {images}/000003.png of train: not a supported image: unknown",
        f"  missing: {images}/000004.png of train: No such file or directory",
        f"  unreadable: {images}/000008.png of valid: not a supported image: empty",
    ]
    assert not (tmp_path / "out").exists()


def test_pictures_of_test_are_left_out_and_its_damaged_ones_only_told(faces_dir, caplog):
    images = faces_dir / "images"
    shutil.copy(images / "000009.png", images / "000001.png")  # of test, into train
    shutil.copy(images / "000019.png", images / "000018.png")  # of test, into valid
    (images / "000029.png").unlink()
    train_splits, valid_splits, test_splits = splits_of(faces_dir, "train", "valid", "test")
    with caplog.at_level(logging.WARNING):
        kept_train, kept_valid = check_data(train_splits, valid_splits, test_splits)
    said = [name for name in names_of(train_splits) if name != "000001.png"]
    assert names_of(kept_train) == said
    assert names_of(kept_valid) == [n for n in names_of(valid_splits) if n != "000018.png"]
    assert "000029.png of test: No such file" in caplog.text
    assert "left out of train: 1 images that leak" in caplog.text
    assert "left out of valid: 1 images that leak" in caplog.text


def test_sound_data_stays_as_it_is(faces_dir, caplog):
    train_splits, valid_splits, test_splits = splits_of(faces_dir, "train", "valid", "test")
    with caplog.at_level(logging.WARNING):
        assert check_data(train_splits, valid_splits, test_splits) == (train_splits, valid_splits)
    assert caplog.text == ""


def test_several_data_sets_keep_their_order_and_leak_into_each_other(faces_dir, tmp_path):
    other = tmp_path / "other"
    synthetic.write(other, 50, seed=3, image_px=24)
    shutil.copy(other / "images" / "000009.png", faces_dir / "images" / "000002.png")
    splits = [
        own + others
        for own, others in zip(
            splits_of(faces_dir, "train", "valid", "test"),
            splits_of(other, "train", "valid", "test"),
            strict=True,
        )
    ]
    kept, kept_valid = check_data(*splits)
    assert [len(split.samples) for split in kept] == [39, 40]
    assert "000002.png" not in names_of(kept[:1])
    assert kept_valid == splits[1]


def test_a_data_set_without_a_test_split_is_trained_all_the_same(faces_dir, caplog):
    with (faces_dir / "labels.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    with (faces_dir / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *(row for row in rows if row[1] != "test")])
    with caplog.at_level(logging.WARNING):
        assert held_out_splits([f"synthetic:{faces_dir}"], None) == []
    assert "no test split to keep apart: synthetic: split 'test' holds no image" in caplog.text


def test_a_limit_holds_for_every_split(faces_dir):
    spec = f"synthetic:{faces_dir}"
    assert len(read_split(spec, "train", 7).samples) == 7
    assert len(read_split(spec, "train", None).samples) == 40
    (held_out,) = held_out_splits([spec], 2)
    assert names_of([held_out]) == ["000009.png", "000019.png"]


# Attributes

MASK = Attribute(
    name="face_mask", kind=Kind.CATEGORICAL, description="d", classes=("none", "cloth")
)
SMILING = attribute("smiling")


def split(*attributes: Attribute) -> DatasetSplit:
    return DatasetSplit(
        name="table",
        split="train",
        attributes=attributes,
        samples=(Sample("file:///a.jpg", {}),),
        licence="",
        research_only=False,
    )


def test_attributes_of_ones_own_are_trained_as_declared():
    tiny = train_preset("tiny")
    assert choose_attributes(tiny, [split(SMILING), split(MASK, SMILING)]) == (SMILING, MASK)
    named = dataclasses.replace(tiny, attributes=("face_mask",))
    assert choose_attributes(named, [split(SMILING, MASK)]) == (MASK,)


def test_a_wanted_attribute_must_be_labelled():
    with pytest.raises(UsageError, match="no --data labels age, perceived_gender_presentation"):
        choose_attributes(train_preset("demographics"), [split(SMILING)])


def test_one_name_has_one_meaning():
    other = dataclasses.replace(MASK, classes=("cloth", "none"))
    with pytest.raises(UsageError, match="two --data declare face_mask differently: make kind"):
        choose_attributes(train_preset("tiny"), [split(MASK), split(other)])


def test_an_attribute_without_any_label_is_refused():
    """Of train or of valid: neither could be learnt, or chosen by."""
    labelled = dataclasses.replace(
        split(SMILING, MASK), samples=(Sample("file:///a", {"smiling": 1}),)
    )
    with pytest.raises(UsageError, match="no face of train has a label for face_mask: label some"):
        refuse_unlabelled([labelled, split(MASK)], (SMILING, MASK))
    refuse_unlabelled([labelled, split(MASK)], (SMILING,))


def test_crops_are_held_where_they_fit(monkeypatch):
    rule = named_rule("celeba", (32, 26))  # 2,496 bytes a crop
    assert train_data.fits(10, rule, 24_960)
    assert not train_data.fits(10, rule, 24_959)
    assert not train_data.fits(1, rule, 0)
    monkeypatch.setattr(train_data, "memory_bytes", lambda: 8 * 24_960)
    assert train_data.fits(10, rule, None)
    assert not train_data.fits(11, rule, None)


def test_memory_is_that_of_the_container(tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(train_data, "_CONTAINER_LIMIT", limit)
    machine = train_data.memory_bytes()
    assert machine > 1 << 28
    for text, wanted in (("max\n", machine), ("1048576\n", 1 << 20), (f"{1 << 60}\n", machine)):
        limit.write_text(text)
        assert train_data.memory_bytes() == wanted


def test_crops_beyond_the_cache_are_cut_anew(faces_dir, caplog):
    caplog.set_level(logging.INFO)
    [splits] = splits_of(faces_dir, "train")
    preset, attributes = train_preset("tiny"), splits[0].attributes
    held, streamed = (
        train_data.cut_crops(
            TrainConfig(preset="tiny", data=("x:y",), output="out", cache_bytes=size),
            preset,
            attributes,
            splits,
        )
        for size in (None, 1000)
    )
    assert "are more than 0.0 MB: cut anew in every epoch" in caplog.text
    assert isinstance(streamed.crops, StreamedCrops)
    assert (streamed.crops[:] == held.crops).all()
