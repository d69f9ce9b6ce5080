"""The jobs as users start them: train a model, measure it, label with it, each in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from PIL import Image

from fattr import bundle
from fattr.datasets import read_dataset, synthetic

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 400
NUM_IMAGES, EPOCHS = 300, 15


def job(name: str, *argv: object, timeout_s: float = TIMEOUT_S) -> SimpleNamespace:
    """Run ``python jobs/NAME.py`` as a user would."""
    script = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *map(str, argv)]
    return process(script, timeout_s)


def process(command: list[str], timeout_s: float = TIMEOUT_S) -> SimpleNamespace:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "AWS_"))}
    done = subprocess.run(
        command,
        timeout=timeout_s,
        capture_output=True,
        text=True,
        check=False,
        env=environment | {"COLUMNS": "100"},
    )
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    paths = {path.relative_to(folder): path.stat() for path in folder.rglob("*")}
    return {str(path): (info.st_size, info.st_mtime_ns) for path, info in paths.items()}


def assert_refused(result: SimpleNamespace, output: Path, before: dict) -> None:
    assert result.code == 2, result.err
    assert result.err.count("\n") == 1, result.err
    assert str(output) in result.err
    assert listing(output) == before


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    synthetic.write(folder, NUM_IMAGES, seed=0, image_px=96)
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> SimpleNamespace:
    output = tmp_path_factory.mktemp("train") / "out"
    argv = ["--preset", "tiny", "--data", f"synthetic:{data}", "--epochs", EPOCHS]
    argv += ["--output", output]
    done = job("train", *argv)
    assert done.code == 0, done.err
    return SimpleNamespace(output=output, argv=argv, err=done.err)


@pytest.mark.ray
def test_training_leaves_a_bundle_and_its_history(trained, data):
    output = trained.output
    assert (output / "_SUCCESS").is_file()
    made = bundle.find(str(output))
    labelled = read_dataset(f"synthetic:{data}", "train").attributes
    assert made.spec.attributes == labelled
    assert made.spec.backbone == "tiny"
    history = pq.read_table(output / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    run = json.loads((output / "run.json").read_text())
    assert run["model_id"] == made.model_id
    assert run["exit_code"] == 0
    events = [event["event"] for event in run["timeline"]["events"]]
    assert events == ["began", "workers", *["epoch"] * EPOCHS, "finished"]
    page = (output / "summary.html").read_text()
    assert f"<dt>model</dt><dd>{made.model_id}</dd>" in page
    assert (output / "bundle" / "MODEL_CARD.md").read_text()
    kept = (output / "run.json").read_text() + (output / "bundle" / "bundle.json").read_text()
    assert str(data) not in kept
    for epoch in range(1, EPOCHS + 1):
        assert f"epoch {epoch}: train loss" in trained.err
    assert " fit: score " in trained.err  # the verdict
    for name in ("crops.png", "curves.png"):
        with Image.open(output / name) as picture:
            assert min(picture.size) > 300
    assert list((output / "tensorboard").glob("events.*"))


@pytest.mark.ray
def test_training_onto_the_same_output_does_nothing_and_another_is_refused(trained):
    before = listing(trained.output)
    again = job("train", *trained.argv)
    assert again.code == 0, again.err
    assert again.err == f"{trained.output.as_uri()} holds this run, finished: nothing to do\n"
    assert listing(trained.output) == before
    assert_refused(job("train", *trained.argv, "--seed", 7), trained.output, before)


def majority_accuracy(data: Path) -> float:
    """Mean over attributes of what always saying the more frequent label of `train` gets right."""
    train = read_dataset(f"synthetic:{data}", "train").samples
    valid = read_dataset(f"synthetic:{data}", "test").samples
    accuracies = []
    for name in {name for sample in train for name in sample.targets}:
        counts = Counter(s.targets[name] for s in train if name in s.targets)
        own = [s.targets[name] for s in valid if name in s.targets]
        accuracies.append(own.count(counts.most_common(1)[0][0]) / len(own))
    return sum(accuracies) / len(accuracies)


@pytest.mark.ray
def test_evaluation_finds_the_model_better_than_guessing(trained, data, tmp_path):
    output = tmp_path / "evaluation"
    argv = ["--model", trained.output, "--data", f"synthetic:{data}", "--output", output]
    done = job("evaluate", *argv)
    assert done.code == 0, done.err
    metrics = json.loads((output / "metrics.json").read_text())
    assert metrics["model_id"] == bundle.find(str(trained.output)).model_id
    assert metrics["num_images"] == NUM_IMAGES // 10
    assert metrics["macro"]["accuracy"] > majority_accuracy(data) + 0.05
    assert metrics["macro"]["balanced_accuracy"] > 0.6
    assert_refused(job("evaluate", *argv), output, listing(output))


@pytest.mark.ray
def test_annotating_with_the_trained_model(trained, photo_folder, tmp_path, rows_of):
    output = tmp_path / "tables"
    argv = ["--images", photo_folder, "--output", output, "--model", trained.output]
    done = job("annotate", *argv)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    images, faces = rows_of(output, "images"), rows_of(output, "faces")
    statuses = Counter(row["status"] for row in images)
    assert statuses == {"ok": 6, "no_face": 1, "unreadable": 3}
    assert len(faces) == 7
    made = bundle.find(str(trained.output))
    assert {row["model_id"] for row in faces} == {made.model_id}
    for attribute in made.spec.attributes:
        assert all(0 <= row[f"{attribute.name}_prob"] <= 1 for row in faces)
    (run,) = (output / "_runs").glob("*/run.json")
    assert json.loads(run.read_text())["engine"] == "ray"

    local = tmp_path / "local"
    argv_local = [local if part == output else part for part in argv]
    assert job("annotate", *argv_local, "--engine", "auto").code == 0
    (run,) = (local / "_runs").glob("*/run.json")
    assert json.loads(run.read_text())["engine"] == "local"  # few images, and no cluster
    for table in ("images", "faces"):
        assert rows_of(local, table) == rows_of(output, table)

    assert job("annotate", *argv).code == 0  # nothing is new
    assert rows_of(output, "images") == images


@pytest.mark.parametrize("name", ["annotate", "evaluate", "train"])
def test_the_console_script_is_the_same_as_the_job(name):
    console = process([str(Path(sys.executable).with_name("fattr")), name, "--help"])
    script = job(name, "--help")
    assert (console.code, script.code) == (0, 0)
    assert console.out == script.out
    assert "--output" in console.out


def test_the_console_script_without_a_job_shows_them():
    command = str(Path(sys.executable).with_name("fattr"))
    nothing, unknown, asked = (process([command, *argv]) for argv in ([], ["paint"], ["--help"]))
    assert (nothing.code, unknown.code, asked.code) == (2, 2, 0)
    for name in ("annotate", "evaluate", "train"):
        assert name in asked.out


@pytest.mark.ray
@pytest.mark.full
def test_two_workers_train_every_epoch(data, tmp_path):
    output = tmp_path / "two"
    done = job(
        "train",
        *("--preset", "tiny", "--data", f"synthetic:{data}", "--output", output),
        *("--epochs", EPOCHS, "--workers", 2),
    )
    assert done.code == 0, done.err
    history = pq.read_table(output / "history.parquet").to_pylist()
    assert [row["epoch"] for row in history] == list(range(1, EPOCHS + 1))
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert bundle.find(str(output)).spec.backbone == "tiny"


@pytest.mark.ray
def test_training_data_with_a_damaged_image_is_refused(data, tmp_path):
    drawn = tmp_path / "drawn"
    synthetic.write(drawn, 20, seed=1, image_px=32)
    (drawn / "images" / "000003.png").write_bytes(b"not a picture")
    output = tmp_path / "out"
    done = job("train", "--preset", "tiny", "--data", f"synthetic:{drawn}", "--output", output)
    assert done.code == 2
    assert "000003.png" in done.err
    assert not output.exists()
    with Image.open(drawn / "images" / "000004.png") as sound:
        assert sound.size == (32, 32)


def mapped(root: Path, drawn: Path, attribute: str) -> str:
    """The drawn faces as a data set of one's own that labels one attribute alone."""
    root.mkdir()
    for path in (drawn / "labels.csv", drawn / "images"):
        (root / path.name).symlink_to(path)
    rows = (root / "labels.csv").read_text().splitlines()
    (root / "faces.csv").write_text("\n".join([rows[0], *(f"images/{row}" for row in rows[1:])]))
    (root / "fattr.toml").write_text(
        'table = "faces.csv"\nimage = "file"\nsplit = "split"\n'
        f'licence = "drawn"\n[labels.{attribute}]\n'
    )
    return f"table:{root}"


@pytest.mark.drills
@pytest.mark.ray
def test_one_network_learns_from_two_data_sets_with_different_labels(data, tmp_path):
    named = ("eyeglasses", "wearing_hat")
    specs = [mapped(tmp_path / name, data, name) for name in named]
    output = tmp_path / "out"
    argv = [flag for spec in specs for flag in ("--data", spec)]
    done = job("train", "--preset", "tiny", *argv, "--epochs", 12, "--output", output)
    assert done.code == 0, done.err
    assert tuple(a.name for a in bundle.find(str(output)).spec.attributes) == named
    for name, spec in zip(named, specs, strict=True):
        told = tmp_path / f"told-{name}"
        done = job("evaluate", "--model", output, "--data", spec, "--output", told)
        assert done.code == 0, done.err
        own = json.loads((told / "metrics.json").read_text())["attributes"][name]
        majority = max(own["prevalence"], 1 - own["prevalence"])
        assert own["accuracy"] > majority + 0.05


@pytest.mark.ray
@pytest.mark.full
def test_a_run_that_diverges_says_so_and_leaves_no_model(data, tmp_path):
    output = tmp_path / "out"
    argv = ["--preset", "tiny", "--data", f"synthetic:{data}", "--output", output]
    done = job("train", *argv, "--learning-rate", 1e30, "--optimizer", "sgd")
    assert done.code == 3
    assert "the loss became NaN or infinite by epoch 1: lower --learning-rate" in done.err
    assert "Traceback" not in done.err
    assert json.loads((output / "run.json").read_text())["exit_code"] == 3
    assert not (output / "bundle").exists()
    assert not (output / "_SUCCESS").exists()
