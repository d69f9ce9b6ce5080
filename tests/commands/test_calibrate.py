"""``fattr calibrate`` on drawn faces with a tiny model that believes too little of what it sees."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from fattr import bundle as bundles
from fattr.bundle import Bundle
from fattr.classify.calibration import Calibration, attribute_probabilities, labels, logit_slices
from fattr.cli import run_job
from fattr.crop import central_crop, named_rule
from fattr.datasets import read_dataset, synthetic
from fattr.evaluation import scoring
from fattr.labelled_crops import labelled_crops
from fattr.presets import train_preset
from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.finish import make_bundle
from fattr.train.loop import fit
from fattr.train.plan import TrainPlan

NUM_IMAGES = 400
NUM_VALID = NUM_IMAGES // 10
HAIR = ("black_hair", "blond_hair", "brown_hair", "gray_hair")  # unknown under a hat
PRESET = train_preset("tiny")
RULE = named_rule(PRESET.crop_rule, PRESET.crop_size_hw)
TIMID = 4.0  # a temperature
CROPS = ("--crops", "dataset")


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    synthetic.write(folder, NUM_IMAGES, seed=3, image_px=96)
    return folder


@pytest.fixture(scope="module")
def timid(faces_dir, tmp_path_factory) -> Bundle:
    """A tiny model after a few steps, its probabilities all too near one half."""
    splits = {name: read_dataset(f"synthetic:{faces_dir}", name) for name in ("train", "valid")}
    attributes = splits["train"].attributes
    crops = {
        name: labelled_crops(
            split.samples, attributes, RULE, detector=None, num_threads=2, progress=lambda x: x
        )
        for name, split in splits.items()
    }
    plan = TrainPlan(
        backbone=PRESET.backbone,
        attributes=attributes,
        seed=0,
        init_weights=None,
        recipe=dataclasses.replace(PRESET.recipe, epochs=3),
    )
    folder = tmp_path_factory.mktemp("run")
    fit(LocalContext(folder / "checkpoint"), plan, crops["train"], crops["valid"])
    made = make_bundle(
        folder / "calibrated",
        name="tiny",
        plan=plan,
        rule=RULE,
        state=checkpoint.newest(LocalContext(folder / "checkpoint").checkpoints()),
        valid=crops["valid"],
        splits=[splits["train"]],
        training={
            "command": "python jobs/train.py --preset tiny --data synthetic:DIR --output DIR",
            "recipe": {"epochs": 3},
            "data": [{"name": "synthetic", "images": NUM_IMAGES, "licence": "free"}],
        },
    )
    calibration = Calibration({a.name: TIMID for a in attributes}, {"smiling": 0.9})
    spec = dataclasses.replace(made.spec, calibration=calibration)
    return bundles.save(folder / "timid", spec, weights=made.weights, onnx=made.onnx)


@pytest.fixture
def calibrate(timid, faces_dir, tmp_path):
    """A function that runs the job: exit code and the folder it wrote, or would have."""

    def run(*flags: str, data: tuple[str, ...] = (), name: str = "out") -> tuple[int, Path]:
        output = tmp_path / name
        argv = ["--model", str(timid.folder), "--output", str(output)]
        for one in data or (f"synthetic:{faces_dir}",):
            argv += ["--data", one]
        return run_job("calibrate", [*argv, *flags]), output

    return run


@pytest.fixture(scope="module")
def plain(timid, faces_dir, tmp_path_factory) -> Path:
    """What the job writes without further flags; nobody writes into it."""
    output = tmp_path_factory.mktemp("plain") / "out"
    flags = ["--model", str(timid.folder), "--data", f"synthetic:{faces_dir}", *CROPS]
    assert run_job("calibrate", [*flags, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def seen(timid, faces_dir) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Logits (N, 1) and targets (N,) of the labelled `valid` faces, by nothing but onnxruntime."""
    samples = read_dataset(f"synthetic:{faces_dir}", "valid").samples
    files = [faces_dir / "images" / Path(s.image_uri).name for s in samples]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    crops = np.stack([central_crop(picture, RULE) for picture in pictures])
    session = onnxruntime.InferenceSession(timid.onnx, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"crops": crops})[0]
    found = {}
    for name, columns in logit_slices(timid.spec.attributes).items():
        known = np.array([name in s.targets for s in samples])
        targets = np.array([s.targets[name] for s in samples if name in s.targets])
        found[name] = logits[known, columns], targets
    return found


def report_of(output: Path) -> dict:
    return json.loads((output / "calibration.json").read_text())


def fitted_names(output: Path) -> list[str]:
    rows = report_of(output)["attributes"]
    return [name for name, row in rows.items() if row["status"] == "fitted"]


def ece_by_tenths(probs: np.ndarray, targets: np.ndarray) -> float:
    """Expected calibration error over ten parts of equally many faces."""
    order = np.argsort(probs, kind="stable")
    parts = [part for part in np.array_split(order, 10) if len(part)]
    gaps = [len(part) * abs(probs[part].mean() - targets[part].mean()) for part in parts]
    return sum(gaps) / len(probs)


def probs_of(bundle: Bundle, name: str, logits: np.ndarray) -> np.ndarray:
    one = next(a for a in bundle.spec.attributes if a.name == name)
    return attribute_probabilities(logits, one, bundle.spec.calibration)


# The new bundle


def test_the_network_stays_and_its_probabilities_change(plain, timid, seen):
    made = bundles.find(str(plain))
    assert made.folder == plain / "bundle"
    assert made.model_id != timid.model_id
    assert (made.weights, made.onnx) == (timid.weights, timid.onnx)
    same = ("name", "backbone", "attributes", "crop_rule", "licence", "research_only", "versions")
    for field in same:
        assert getattr(made.spec, field) == getattr(timid.spec, field)
    assert made.spec.training.items() > dict(timid.spec.training).items()
    for name in ("wearing_hat", "bald", "mustache"):
        logits, _ = seen[name]
        moved = np.abs(probs_of(made, name, logits) - probs_of(timid, name, logits))
        assert moved.max() > 0.1


def test_probabilities_come_true_on_the_faces_that_were_fitted(plain, timid, seen):
    report, made = report_of(plain), bundles.find(str(plain))
    names = fitted_names(plain)
    assert len(names) >= 7
    for name in names:
        logits, targets = seen[name]
        row = report["attributes"][name]
        before = ece_by_tenths(probs_of(timid, name, logits), targets)
        assert row["n"] == len(targets)
        assert row["ece"]["before"] == pytest.approx(before, abs=1e-5)
        probs = probs_of(made, name, logits)
        if len(np.unique(probs)) == len(probs):  # else it depends on how equals are told apart
            assert row["ece"]["after"] == pytest.approx(ece_by_tenths(probs, targets), abs=1e-5)
        brier = ((probs - targets) ** 2).mean()
        assert row["brier"]["after"] == pytest.approx(brier, abs=1e-5)
        assert brier < ((probs_of(timid, name, logits) - targets) ** 2).mean() + 1e-6
    macro = report["macro"]
    assert macro["ece"]["after"] < macro["ece"]["before"] - 0.05
    assert macro["held_out"]["ece"] < macro["ece"]["before"]


@pytest.mark.parametrize(
    ("method", "has", "lacks"),
    [
        ("temperature", ("temperatures",), ("biases", "curves")),
        ("platt", ("temperatures", "biases"), ("curves",)),
        ("isotonic", ("curves",), ("temperatures", "biases")),
    ],
)
def test_the_method_asked_for_is_used(calibrate, method, has, lacks):
    _, output = calibrate(*CROPS, "--method", method)
    made, names = bundles.find(str(output)), fitted_names(output)
    for name in names:
        assert all(name in getattr(made.spec.calibration, field) for field in has)
        assert not any(name in getattr(made.spec.calibration, field) for field in lacks)
    how = made.spec.training["calibration"]["methods"]
    assert {how[name] for name in names} == {method}


def test_thresholds_are_best_for_what_was_asked(calibrate, plain, seen):
    _, output = calibrate(*CROPS, "--method", "platt", "--objective", "balanced_accuracy")
    made = bundles.find(str(output))
    assert bundles.find(str(plain)).spec.calibration.thresholds["smiling"] == 0.5
    for name in fitted_names(output):
        probs = probs_of(made, name, seen[name][0])
        assert made.spec.calibration.thresholds[name] == pytest.approx(probs.mean(), abs=1e-5)


def test_a_precision_out_of_reach_is_said(calibrate, capfd):
    """Not even 40 faces without an error show as much as 0.98."""
    flags = ("--objective", "precision", "--min-precision", "0.98", "--method", "platt")
    code, output = calibrate(*CROPS, *flags)
    printed = capfd.readouterr()
    made, names = bundles.find(str(output)), fitted_names(output)
    assert code == 0
    for name in names:
        assert made.spec.calibration.thresholds[name] == 0.5
        line = f"{name} does not reach a precision of 0.98: its threshold is that of accuracy\n"
        assert printed.err.count(line) == 1
        assert re.search(rf"^ *{name} .* 0\.50*\*", printed.out, re.MULTILINE)
    assert "* precision not reached" in printed.out
    assert (
        "--objective precision --min-precision 0.98 "
        in made.spec.training["calibration"]["command"]
    )


def test_a_precision_within_reach_is_that_of_nine_tenths_and_unmarked(calibrate, capfd):
    flags = ("--objective", "precision", "--method", "platt", "--split", "train")
    _, output = calibrate(*CROPS, *flags)
    printed = capfd.readouterr()
    rows = report_of(output)["attributes"]
    reached = [name for name, row in rows.items() if row["threshold_status"] == "fitted"]
    assert reached
    for name in rows:
        assert (f"{name} does not reach a precision of 0.9:" in printed.err) == (
            name not in reached and rows[name]["status"] == "fitted"
        )
        marked = re.search(rf"^ *{name} .*\d\*", printed.out, re.MULTILINE)
        assert bool(marked) == (name not in reached)


def test_nine_tenths_of_the_faces_keep_their_label(calibrate, timid, seen):
    _, output = calibrate(*CROPS, "--coverage", "0.9", "--method", "platt")
    made, report = bundles.find(str(output)), report_of(output)
    by_name = {a.name: a for a in made.spec.attributes}
    for name in fitted_names(output):
        logits, targets = seen[name]
        probs = probs_of(made, name, logits)
        given = labels(probs, by_name[name], made.spec.calibration, np.zeros(len(probs), bool))
        kept = np.array([label is not None for label in given[name]])
        assert kept.mean() == pytest.approx(0.9, abs=1 / len(targets))
        away = np.abs(probs - made.spec.calibration.thresholds[name])
        assert away[kept].min() > away[~kept].max()
        assert report["attributes"][name]["coverage"]["after"] == pytest.approx(kept.mean())
    assert report["macro"]["coverage"]["before"] == 1


def test_no_label_is_right_with_a_low_probability(calibrate, seen):
    _, output = calibrate(*CROPS, "--min-confidence", "0.8", "--method", "platt")
    made = bundles.find(str(output))
    by_name = {a.name: a for a in made.spec.attributes}
    num_hidden = 0
    for name in fitted_names(output):
        probs = probs_of(made, name, seen[name][0])
        given = labels(probs, by_name[name], made.spec.calibration, np.zeros(len(probs), bool))
        right = np.maximum(probs, 1 - probs)
        hidden = np.array([label is None for label in given[name]])
        np.testing.assert_array_equal(hidden, right < 0.8)
        num_hidden += hidden.sum()
    assert num_hidden


def test_what_has_few_labels_keeps_its_calibration(calibrate, timid, seen, capfd):
    code, output = calibrate(*CROPS, "--limit", "30")
    made, report = bundles.find(str(output)), report_of(output)
    kept = set(timid.spec.calibration.temperatures) - set(fitted_names(output))
    assert code == 0
    assert kept == set(HAIR)
    error = capfd.readouterr().err
    for name in HAIR:
        assert f"{name} keeps its calibration: fewer than 20 labels\n" in error
        assert made.spec.calibration.temperatures[name] == TIMID
        assert report["attributes"][name]["method"] is None


def test_the_same_request_gives_the_same_bundle_from_memory_and_from_files(calibrate, monkeypatch):
    flags = (*CROPS, "--method", "platt", "--coverage", "0.8")
    _, first = calibrate(*flags, name="first")
    monkeypatch.setattr(scoring, "MAX_SCORES_IN_MEMORY", 0)
    monkeypatch.setattr("fattr.local_engine.ROWS_PER_BATCH", 7)
    _, second = calibrate(*flags, name="second")
    assert bundles.find(str(first)).model_id == bundles.find(str(second)).model_id
    assert (first / "calibration.json").read_bytes() == (second / "calibration.json").read_bytes()


def test_crops_are_cut_around_faces_unless_told_otherwise(calibrate):
    """Drawn faces are hardly ever found: what is found moves the logits of few."""
    calibrations = []
    for n, flags in enumerate((("--score-threshold", "0.02"), ("--score-threshold", "1.0"), CROPS)):
        _, output = calibrate(*flags, "--method", "temperature", name=f"{n}")
        calibrations.append(bundles.find(str(output)).spec.calibration)
    detected, unseen, pictures = calibrations
    assert detected != unseen == pictures


# What is written


def test_files_say_what_was_done_and_nothing_of_this_machine(
    calibrate, timid, faces_dir, tmp_path, capfd
):
    flags = ("--coverage", "0.9", "--limit", "35", "--name", "my tiny", "--split", "train")
    code, output = calibrate(*CROPS, *flags)
    printed = capfd.readouterr()
    run, made = json.loads((output / "run.json").read_text()), bundles.find(str(output))
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
    assert code == 0
    assert files == {
        "_SUCCESS",
        "bundle/MODEL_CARD.md",
        "bundle/bundle.json",
        "bundle/model.onnx",
        "bundle/model.safetensors",
        "calibration.json",
        "calibration.png",
        "run.json",
    }
    how = made.spec.training["calibration"]
    assert how["command"] == (
        "fattr calibrate --model tiny --data synthetic:DIR --split train --coverage 0.9 "
        "--crops dataset --name 'my tiny' --limit 35 --output DIR"
    )
    assert how["from_model_id"] == timid.model_id
    assert how["data"] == [
        {"name": "synthetic", "split": "train", "images": 35, "licence": synthetic.LICENCE}
    ]
    assert how["macro"] == report_of(output)["macro"]
    assert (run["job"], run["exit_code"], run["model_id"]) == ("calibrate", 0, made.model_id)
    assert run["calibration"] == how
    assert made.spec.name == "my tiny"
    assert list(report_of(output)["attributes"]) == [a.name for a in timid.spec.attributes]
    card = (output / "bundle" / "MODEL_CARD.md").read_text()
    assert card.startswith("# my tiny\n")
    assert made.model_id in card
    for path in output.rglob("*"):
        if path.suffix in (".json", ".md"):
            text = path.read_text()
            assert not [
                p for p in (tmp_path, faces_dir, timid.folder, Path.home()) if str(p) in text
            ]
    with Image.open(output / "calibration.png") as image:
        assert (image.format, image.info.get("Author")) == ("PNG", None)
        assert min(image.size) > 300
    assert "macro ECE" in printed.err
    assert re.search(r"^ *smiling +\w+ ", printed.out, re.MULTILINE)


@pytest.fixture
def table_of(faces_dir, tmp_path):
    """A function that writes a data set of drawn faces which labels only what it is told."""

    def write(name: str, *labels: str, rows: int = 100, research_only: bool = False) -> str:
        root = tmp_path / name
        root.mkdir()
        with (faces_dir / "labels.csv").open(newline="") as file:
            drawn = list(csv.DictReader(file))[:rows]
        with (root / "t.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("image", "part", *labels))
            for row in drawn:
                picture = faces_dir / "images" / row["file"]
                table.writerow((picture.as_uri(), "val", *(row.get(one, "") for one in labels)))
        mapping = f'table = "t.csv"\nimage = "image"\nsplit = "part"\nlicence = "terms of {name}"\n'
        mapping += f"research_only = {str(research_only).lower()}\n"
        mapping += "".join(f"[labels.{one}]\n" for one in labels)
        (root / "fattr.toml").write_text(mapping)
        return f"table:{root}"

    return write


def test_two_data_sets_calibrate_what_each_labels(calibrate, timid, table_of):
    data = (
        table_of("one", "smiling", "goatee"),
        table_of("two", "eyeglasses", rows=60, research_only=True),
    )
    code, output = calibrate(*CROPS, data=data)
    made, report = bundles.find(str(output)), report_of(output)
    assert code == 0
    assert {name: row["n"] for name, row in report["attributes"].items()} == {
        "smiling": 100,
        "eyeglasses": 60,
    }
    assert fitted_names(output) == ["smiling", "eyeglasses"]
    eces = [report["attributes"][name]["ece"]["after"] for name in ("smiling", "eyeglasses")]
    assert report["macro"]["ece"]["after"] == pytest.approx(np.mean(eces))
    assert made.spec.calibration.temperatures["bald"] == TIMID
    how = made.spec.training["calibration"]
    assert [(one["images"], one["licence"]) for one in how["data"]] == [
        (100, "terms of one"),
        (60, "terms of two"),
    ]
    assert "--data table:DIR --data table:DIR" in how["command"]
    _, alone = calibrate(*CROPS, data=data[:1], name="alone")
    curves = [bundles.find(str(folder)).spec.calibration for folder in (output, alone)]
    for field in ("temperatures", "biases", "curves", "thresholds"):
        one, other = (getattr(curve, field) for curve in curves)
        assert one.get("smiling") == other.get("smiling")


def test_terms_of_model_and_data_are_inherited(calibrate, timid, table_of):
    data = (table_of("one", "smiling", research_only=True), table_of("two", "eyeglasses"))
    _, output = calibrate(*CROPS, data=data)
    spec = bundles.find(str(output)).spec
    assert not timid.spec.research_only
    assert spec.research_only
    assert spec.licence == f"{timid.spec.licence}; terms of one; terms of two"
    card = (output / "bundle" / "MODEL_CARD.md").read_text()
    assert "**Research only.**" in card
    run = json.loads((output / "run.json").read_text())
    assert run["licence"] == spec.licence


# What is refused


def assert_refused(code: int, output: Path, error: str, message: str) -> None:
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert error.startswith("fattr calibrate: ")
    assert not output.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--model", "celeba41"], "unknown model 'celeba41'", id="model"),
        pytest.param(["--coverage", "0.9", "--min-confidence", "0.8"], "exclude", id="both"),
        pytest.param(["--coverage", "1.5"], "--coverage must be over 0", id="coverage"),
        pytest.param(["--min-precision", "0.8"], "--objective precision", id="precision"),
        pytest.param(["--method", "beta"], "'auto', 'temperature', 'platt'", id="method"),
        pytest.param(["--objective", "recall"], "balanced_accuracy", id="objective"),
        pytest.param(["--detector", "yolo"], "unknown detector 'yolo'", id="detector"),
        pytest.param(["--limit", "0"], "--limit must be 1 or more", id="limit"),
        pytest.param([*CROPS, "--limit", "12"], "fewer than 20 labels", id="few-faces"),
        pytest.param(["--output", "{file}"], "a folder expected", id="output-is-a-file"),
        pytest.param(["--data", "{faces}"], "both label", id="twice"),
        pytest.param(["--data", "celeba:/nowhere"], "label file expected at", id="no-data"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(
    calibrate, faces_dir, tmp_path, capfd, flags, message
):
    file = tmp_path / "file"
    file.touch()
    faces = f"synthetic:{faces_dir}"
    code, output = calibrate(*(flag.format(file=file, faces=faces) for flag in flags))
    assert_refused(code, output, capfd.readouterr().err, message)


def test_a_used_output_is_refused_and_kept(calibrate, tmp_path, capfd):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("{}")
    code, output = calibrate(*CROPS)
    assert code == 2
    assert re.fullmatch(r"fattr calibrate: .*holds a run already.*\n", capfd.readouterr().err)
    assert [path.name for path in output.iterdir()] == ["metrics.json"]


def test_data_without_a_label_is_refused(calibrate, table_of, capfd):
    code, output = calibrate(data=(table_of("one", "goatee"),))
    assert_refused(code, output, capfd.readouterr().err, "predicts nothing that data set table")
    table = table_of("two", "smiling")
    csv_file = Path(table.removeprefix("table:")) / "t.csv"
    csv_file.write_text(re.sub(r",[01]?$", ",", csv_file.read_text(), flags=re.MULTILINE))
    code, output = calibrate(data=(table,))
    error = capfd.readouterr().err
    assert_refused(code, output, error, "no image of table valid has a label for smiling")


def test_labels_of_one_class_alone_are_refused(calibrate, table_of, capfd):
    table = table_of("one", "smiling")
    csv_file = Path(table.removeprefix("table:")) / "t.csv"
    csv_file.write_text(re.sub(r",[01]$", ",1", csv_file.read_text(), flags=re.MULTILINE))
    code, output = calibrate(*CROPS, data=(table,))
    error = capfd.readouterr().err
    assert_refused(code, output, error, "nothing can be fitted on valid (smiling: one class only)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"\x89PNG\r\n\x1a\nnot more", "damaged png: ", id="damaged"),
        pytest.param(b"hello", "not a supported image", id="no-image"),
        pytest.param(None, "No such file or directory; mend or remove this", id="missing"),
    ],
)
def test_an_image_that_cannot_be_read_is_refused_by_name(
    calibrate, table_of, tmp_path, capfd, content, message
):
    table = table_of("one", "smiling")
    bad = tmp_path / "bad 1.png"
    if content is not None:
        bad.write_bytes(content)
    with (tmp_path / "one" / "t.csv").open("a") as file:
        file.write(f"{bad},val,1\n")
    code, output = calibrate(*CROPS, data=(table,))
    assert_refused(code, output, error := capfd.readouterr().err, message)
    assert f"{bad.as_uri()}: " in error
