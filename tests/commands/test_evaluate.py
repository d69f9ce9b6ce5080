"""``jobs/evaluate.py`` on drawn faces with a tiny model, its figures computed again by others."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import duckdb
import numpy as np
import onnxruntime
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from fattr import bundle as bundles
from fattr.bundle import Bundle
from fattr.cli import run_job
from fattr.commands.score_data import refuse_problems
from fattr.crop import central_crop, named_rule
from fattr.datasets import read_dataset, synthetic
from fattr.errors import UsageError
from fattr.labelled_crops import LabelledCrops, labelled_crops
from fattr.presets import train_preset
from fattr.train import checkpoint
from fattr.train.context import LocalContext
from fattr.train.finish import make_bundle
from fattr.train.loop import fit
from fattr.train.plan import Recipe, TrainPlan

NUM_IMAGES = 200
NUM_TEST = NUM_IMAGES // 10
PRESET = train_preset("tiny")
RULE = named_rule(PRESET.crop_rule, PRESET.crop_size_hw)
ANY_GROUP = ("--min-group", "1")
PRODUCTS = {"_SUCCESS", "metrics.json", "metrics.parquet", "report.html", "report.md", "run.json"}


@pytest.fixture(scope="module")
def faces_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    synthetic.write(folder, NUM_IMAGES, seed=3, image_px=96)
    return folder


@pytest.fixture(scope="module")
def trained(faces_dir, tmp_path_factory) -> Bundle:
    """A tiny model after a few steps: calibrated, and often wrong."""
    splits = {name: read_dataset(f"synthetic:{faces_dir}", name) for name in ("train", "valid")}
    attributes = splits["train"].attributes
    crops = {name: own_crops(split.samples, attributes) for name, split in splits.items()}
    plan = TrainPlan(
        backbone=PRESET.backbone,
        attributes=attributes,
        seed=0,
        init_weights=None,
        recipe=Recipe(
            augmentation="none",
            epochs=2,
            batch_size=16,
            learning_rate=1e-2,
            weight_decay=0.05,
            warmup_frac=0.1,
            ema_decay=0.8,
            dropout=0.0,
        ),
    )
    folder = tmp_path_factory.mktemp("run")
    fit(LocalContext(folder / "checkpoint"), plan, crops["train"], crops["valid"])
    training = {
        "command": "python jobs/train.py --preset tiny --data synthetic:DIR --output DIR",
        "recipe": {"epochs": 2},
        "data": [{"name": "synthetic", "images": len(crops["train"]), "licence": "free"}],
    }
    return make_bundle(
        folder / "bundle",
        name="tiny",
        plan=plan,
        rule=RULE,
        state=checkpoint.newest(LocalContext(folder / "checkpoint").checkpoints()),
        valid=crops["valid"],
        splits=[splits["train"]],
        training=training,
    )


def own_crops(samples, attributes) -> LabelledCrops:
    return labelled_crops(
        samples, attributes, RULE, detector=None, num_threads=2, progress=lambda items: items
    )


@pytest.fixture
def evaluate(trained, faces_dir, tmp_path):
    """A function that runs the job: exit code and the folder it wrote, or would have."""

    def run(*flags: str, model: Path | str = trained.folder, name: str = "out") -> tuple[int, Path]:
        output = tmp_path / name
        argv = ["--model", str(model), "--data", f"synthetic:{faces_dir}", "--output", str(output)]
        return run_job("evaluate", [*argv, *flags]), output

    return run


def metrics_of(output: Path) -> dict:
    return json.loads((output / "metrics.json").read_text())


def predictions(bundle: Bundle, faces_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Targets (N, A), NaN where unknown, and yes or no (N, A), by nothing but onnxruntime."""
    split = read_dataset(f"synthetic:{faces_dir}", "test")
    files = [faces_dir / "images" / Path(s.image_uri).name for s in split.samples]
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    crops = np.stack([central_crop(picture, RULE) for picture in pictures])
    session = onnxruntime.InferenceSession(bundle.onnx, providers=["CPUExecutionProvider"])
    logits = session.run(None, {"crops": crops})[0].astype(np.float64)
    calibration, names = bundle.spec.calibration, [a.name for a in bundle.spec.attributes]
    temperatures = [calibration.temperatures.get(name, 1.0) for name in names]
    thresholds = [calibration.thresholds.get(name, 0.5) for name in names]
    probs = 1 / (1 + np.exp(-logits / temperatures))
    targets = [[s.targets.get(name, np.nan) for name in names] for s in split.samples]
    return np.asarray(targets, float), probs >= thresholds


def test_figures_equal_those_of_sklearn(evaluate, trained, faces_dir):
    code, output = evaluate("--crops", "dataset")
    metrics = metrics_of(output)
    targets, labels = predictions(trained, faces_dir)
    assert code == 0
    assert list(metrics["attributes"]) == [a.name for a in trained.spec.attributes]
    for i, row in enumerate(metrics["attributes"].values()):
        known = ~np.isnan(targets[:, i])
        y_true, y_pred = targets[known, i].astype(bool), labels[known, i]
        assert row["n"] == known.sum()
        assert row["accuracy"] == pytest.approx(accuracy_score(y_true, y_pred))
        if (y_true | y_pred).any():
            assert row["f1"] == pytest.approx(f1_score(y_true, y_pred))
        if len(set(y_true)) == 2:
            balanced = balanced_accuracy_score(y_true, y_pred)
            assert row["balanced_accuracy"] == pytest.approx(balanced)
        assert "by_group" not in row
    rows = metrics["attributes"].values()
    assert metrics["macro"]["accuracy"] == pytest.approx(np.mean([r["accuracy"] for r in rows]))
    assert metrics["num_macro_attributes"] == len(trained.spec.attributes)


def test_a_crop_of_the_data_set_has_no_detection_figures(evaluate):
    _, output = evaluate("--crops", "dataset")
    metrics = metrics_of(output)
    assert metrics["crops"] == "dataset"
    assert metrics["detector"] is None
    assert metrics["detection_recall"] is None
    assert metrics["gated_frac"] is None


def test_metrics_say_what_was_measured(evaluate, trained, faces_dir, tmp_path):
    _, output = evaluate("--limit", "8")
    metrics, run = metrics_of(output), json.loads((output / "run.json").read_text())
    assert {p.name for p in output.iterdir()} == PRODUCTS
    assert (metrics["model"], metrics["model_id"]) == ("tiny", trained.model_id)
    assert (metrics["data"], metrics["split"], metrics["num_images"]) == ("synthetic", "test", 8)
    assert metrics["command"] == (
        "python jobs/evaluate.py --model tiny --data synthetic:DIR --split test --limit 8 "
        "--output DIR"
    )
    assert metrics["licence"] == {"model": trained.spec.licence, "data": synthetic.LICENCE}
    assert metrics["run_id"] == run["run_id"]
    assert run["exit_code"] == 0
    assert run["macro"] == metrics["macro"]
    texts = ("metrics.json", "run.json", "report.html", "report.md")
    written = "".join((output / name).read_text() for name in texts)
    assert str(tmp_path) not in written
    assert str(faces_dir) not in written


@pytest.mark.parametrize(("min_face_px", "gated"), [("0", 0.0), ("10000", 1.0)])
def test_the_gate_is_reported_and_ignored(evaluate, min_face_px, gated):
    _, output = evaluate("--min-face-px", min_face_px, "--score-threshold", "0.02")
    metrics = metrics_of(output)
    assert 0 < metrics["detection_recall"] <= 1
    assert metrics["gated_frac"] == gated
    assert metrics["attributes"]["smiling"]["n"] == NUM_TEST


def test_where_no_face_is_found_the_centre_is_taken(evaluate):
    _, by_detection = evaluate("--score-threshold", "1.0", name="detect")
    _, by_picture = evaluate("--crops", "dataset", name="dataset")
    metrics = metrics_of(by_detection)
    assert metrics["detection_recall"] == 0.0
    assert metrics["gated_frac"] is None
    assert metrics["attributes"] == metrics_of(by_picture)["attributes"]


def test_groups_and_their_intersections(evaluate, trained, faces_dir):
    _, output = evaluate("--crops", "dataset", "--groups", "skin_tone,head", *ANY_GROUP)
    row = metrics_of(output)["attributes"]["eyeglasses"]
    targets, labels = predictions(trained, faces_dir)
    column = [a.name for a in trained.spec.attributes].index("eyeglasses")
    groups = [s.groups for s in read_dataset(f"synthetic:{faces_dir}", "test").samples]
    assert set(row["by_group"]) == {"skin_tone", "head", "skin_tone*head"}
    assert sum(one["n"] for one in row["by_group"]["skin_tone"].values()) == row["n"]
    for value, one in row["by_group"]["skin_tone*head"].items():
        chosen = [f"{g['skin_tone']}|{g['head']}" == value for g in groups]
        assert one["n"] == sum(chosen)
        right = accuracy_score(targets[chosen, column], labels[chosen, column])
        assert one["accuracy"] == pytest.approx(right)
    own = row["by_group"]["skin_tone"].values()
    kept = sum(one["n"] * one["selective"]["coverage"] for one in own)
    assert kept == pytest.approx(row["n"] * row["selective"]["coverage"])


def test_the_table_shows_macro_figures_and_groups(evaluate, capfd):
    _, output = evaluate("--crops", "dataset", "--groups", "head", *ANY_GROUP)
    printed = capfd.readouterr().out
    macro = metrics_of(output)["macro"]
    assert f"macro accuracy {macro['accuracy']:.4f}" in printed
    assert f"macro balanced accuracy {macro['balanced_accuracy']:.4f}" in printed
    assert "detection recall -" in printed
    assert re.search(r"^smiling by head: .*hat [01]\.\d{4} \(n \d+\)", printed, re.MULTILINE)


def test_a_used_output_is_refused_and_kept(evaluate, capfd):
    evaluate("--crops", "dataset")
    _, output = evaluate("--crops", "dataset")
    before = (output / "metrics.json").read_bytes()
    capfd.readouterr()
    code, output = evaluate()
    assert code == 2
    assert re.fullmatch(r"fattr evaluate: .*metrics\.json.*\n", capfd.readouterr().err)
    assert (output / "metrics.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--model", "celeba41"], "unknown model 'celeba41'", id="model"),
        pytest.param(["--data", "celebb:/nowhere"], "did you mean 'celeba'", id="data-set"),
        pytest.param(["--data", "celeba:/nowhere"], "label file expected at", id="folder"),
        pytest.param(["--data", "celeba"], "NAME:DIR", id="no-folder"),
        pytest.param(["--groups", "race"], "head, skin_tone", id="group-column"),
        pytest.param(["--detector", "yolo"], "unknown detector 'yolo'", id="detector"),
        pytest.param(["--limit", "0"], "--limit must be 1 or more", id="limit"),
        pytest.param(["--output", "{file}"], "a folder expected", id="output-is-a-file"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(evaluate, tmp_path, capfd, flags, message):
    file = tmp_path / "file"
    file.touch()
    code, output = evaluate(*(flag.format(file=file) for flag in flags))
    error = capfd.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def test_a_model_of_other_attributes_is_refused(evaluate, tmp_path, capfd):
    folder = tmp_path / "fairface"
    folder.mkdir()
    (folder / "fairface_label_val.csv").write_text("file,age,gender,race\nval/1.jpg,3-9,Male,x\n")
    code, output = evaluate("--data", f"fairface:{folder}")
    assert code == 2
    assert "predicts nothing that data set fairface labels" in capfd.readouterr().err
    assert not output.exists()


def test_rows_that_cannot_be_used_are_not_passed_over(faces_dir, tmp_path):
    text = (faces_dir / "labels.csv").read_text()
    refuse_problems(read_dataset(f"synthetic:{faces_dir}", "test"))
    (tmp_path / "labels.csv").write_text(text + "a,b\nc,d\n")
    message = (
        r"synthetic: 2 rows or folders cannot be used; .*the first: .*line 202: expected 15 ce"
    )
    with pytest.raises(UsageError, match=message):
        refuse_problems(read_dataset(f"synthetic:{tmp_path}", "test"))


def test_card_gathers_the_figures(evaluate, trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.folder, model)
    flags = ["--crops", "dataset", "--card", "--groups", "head,skin_tone", *ANY_GROUP]
    evaluate(*flags, model=model, name="own")
    evaluate("--split", "valid", "--card", model=model, name="valid")
    bundle = bundles.load(model)
    figures, card = bundle.figures(), (model / "MODEL_CARD.md").read_text()
    assert bundle.model_id == trained.model_id
    assert list(figures) == ["synthetic, test, the data set's own crops", "synthetic, valid"]
    measured = metrics_of(tmp_path / "own")
    accuracy = measured["attributes"]["smiling"]["accuracy"]
    hat = measured["attributes"]["smiling"]["by_group"]["head"]["hat"]
    assert figures["synthetic, test, the data set's own crops"]["macro"] == measured["macro"]
    assert f"Mean accuracy {measured['macro']['accuracy']:.4f}" in card
    assert f"| smiling | {NUM_TEST} | {accuracy:.4f} |" in card
    assert f"mean average precision {measured['macro']['average_precision']:.4f}" in card
    assert "| attribute | n | accuracy | balanced accuracy | f1 | average precision |" in card
    assert f"{hat['accuracy']:.4f} ({hat['n']})" in card
    assert "by annotated head and skin_tone" in card
    assert measured["command"] in card
    assert not (trained.folder / "metrics.json").exists()


def test_card_leaves_the_model_alone_unless_asked(evaluate, trained, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(trained.folder, model)
    before = sorted(path.name for path in model.iterdir())
    evaluate("--crops", "dataset", model=model)
    assert sorted(path.name for path in model.iterdir()) == before


def test_a_missed_bar_is_exit_code_1_and_everything_is_written(evaluate, capfd):
    bars = ["--require", "macro_accuracy>=0.0", "--require", "accuracy/smiling>=1.01"]
    code, output = evaluate("--crops", "dataset", *bars)
    metrics, run = metrics_of(output), json.loads((output / "run.json").read_text())
    printed = capfd.readouterr().out
    assert code == 1
    assert run["exit_code"] == 1
    assert [row["met"] for row in metrics["requirements"]] == [True, False]
    assert metrics["requirements"][1]["value"] == metrics["attributes"]["smiling"]["accuracy"]
    assert {p.name for p in output.iterdir()} == PRODUCTS
    assert re.search(r"^met .*macro_accuracy", printed, re.MULTILINE)
    assert re.search(r"^missed .*accuracy/smiling .*>= 1.01 required", printed, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(["--require", "macro_f2>=0.5"], "macro_f1", id="unknown-metric"),
        pytest.param(["--require", "macro_f1=0.5"], "--require 'macro_f1=0.5'", id="form"),
        pytest.param(["--require", "worst_group_gap<=0.1"], "--groups", id="no-groups"),
        pytest.param(["--against", "demographics"], "it predicts none of", id="nothing-shared"),
        pytest.param(["--against", "nobody"], "unknown model 'nobody'", id="no-such-model"),
        pytest.param(["--group-table", "x.csv"], "--groups", id="table-without-groups"),
        pytest.param(
            ["--groups", "x", "--group-table", "/nowhere.csv"], "/nowhere.csv", id="no-table"
        ),
        pytest.param(["--robustness", "--crops", "dataset"], "--crops detect", id="robustness"),
        pytest.param(["--card", "--limit", "8"], "leave --limit out", id="card-of-a-part"),
        pytest.param(["--output", "s3://bucket/x"], "a local folder expected", id="s3-output"),
        pytest.param(["--min-group", "0"], "--min-group must be 1 or more", id="min-group"),
    ],
)
def test_wrong_extras_are_one_line_and_write_nothing(evaluate, capfd, flags, message):
    code, output = evaluate(*flags)
    error = capfd.readouterr().err
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()


def always(bundle: Bundle, folder: Path, *, threshold: float) -> Path:
    """The same network with one threshold for all attributes."""
    thresholds = {a.name: threshold for a in bundle.spec.attributes}
    calibration = dataclasses.replace(bundle.spec.calibration, thresholds=thresholds)
    spec = dataclasses.replace(bundle.spec, name="other", calibration=calibration)
    bundles.save(folder, spec, weights=bundle.weights, onnx=bundle.onnx)
    return folder


def test_a_model_is_compared_on_the_same_faces(evaluate, trained, faces_dir, tmp_path):
    other = always(trained, tmp_path / "other", threshold=0.0)  # says yes to everything
    _, output = evaluate("--crops", "dataset", "--against", str(other))
    against = metrics_of(output)["against"]
    targets, labels = predictions(trained, faces_dir)
    assert (against["model"], against["n"]) == ("other", NUM_TEST)
    for i, attribute in enumerate(trained.spec.attributes):
        known = ~np.isnan(targets[:, i])
        own = accuracy_score(targets[known, i], labels[known, i])
        yes = targets[known, i].mean()
        row = against["attributes"][attribute.name]
        assert row["accuracy"]["difference"] == pytest.approx(own - yes)


def test_groups_of_ones_own_come_from_a_table(evaluate, faces_dir, tmp_path):
    samples = read_dataset(f"synthetic:{faces_dir}", "test").samples
    rows = [f"{s.image_uri},{'even' if i % 2 == 0 else 'odd'}" for i, s in enumerate(samples)]
    table = tmp_path / "groups.csv"
    table.write_text("\n".join(["image,parity", *rows[:-1]]) + "\n")
    flags = ["--crops", "dataset", "--groups", "parity", "--group-table", str(table), *ANY_GROUP]
    code, output = evaluate(*flags)
    metrics = metrics_of(output)
    by_group = metrics["attributes"]["smiling"]["by_group"]["parity"]
    assert code == 0
    assert {group: row["n"] for group, row in by_group.items()} == {"even": 10, "odd": 9}
    assert "--group-table groups.csv" in metrics["command"]


def test_groups_of_few_faces_have_no_figures(evaluate):
    _, output = evaluate("--crops", "dataset", "--groups", "head")
    metrics = metrics_of(output)
    rows = metrics["attributes"]["smiling"]["by_group"]["head"].values()
    assert all(set(row) == {"n", "status"} and row["status"] == "too few" for row in rows)
    gaps = metrics["attributes"]["smiling"]["fairness"]["head"]
    assert gaps["demographic_parity_difference"] is None
    assert set(gaps["groups_left_out"].values()) == {"too few"}
    assert "too few" in (output / "report.html").read_text()


def test_the_table_holds_what_the_json_holds(evaluate):
    _, output = evaluate("--crops", "dataset", "--groups", "head", *ANY_GROUP)
    metrics = metrics_of(output)
    rows = duckdb.sql(
        f"SELECT attribute, \"group\", value, low, high FROM '{output}/metrics.parquet'"
        " WHERE metric = 'accuracy' AND (group_column = 'head' OR group_column IS NULL)"
    ).fetchall()
    found = {(attribute, group): tuple(rest) for attribute, group, *rest in rows}
    for name, row in metrics["attributes"].items():
        assert found[name, None] == (row["accuracy"], *row["intervals"]["accuracy"])
        for group, one in row["by_group"]["head"].items():
            if one["n"]:
                assert found[name, group] == (one["accuracy"], *one["intervals"]["accuracy"])


def test_mistakes_become_pages_and_a_table_to_correct(evaluate, trained, faces_dir):
    code, output = evaluate("--crops", "dataset", "--review")
    targets, labels = predictions(trained, faces_dir)
    names = [a.name for a in trained.spec.attributes]
    assert code == 0
    assert {p.stem for p in (output / "review").iterdir()} == set(names)
    with Image.open(output / "review" / "smiling.png") as page:
        assert min(page.size) > 200
    assert set(metrics_of(output)["mistakes"]) == set(names)
    text = (output / "relabel" / "relabel.csv").read_text(encoding="utf-8-sig")
    queued = list(csv.DictReader(io.StringIO(text)))
    assert [int(row["rank"]) for row in queued] == list(range(1, NUM_TEST + 1))
    read_back = read_dataset(f"table:{output / 'relabel'}", "test")
    before = {s.image_uri: s for s in read_dataset(f"synthetic:{faces_dir}", "test").samples}
    assert {s.image_uri: s.targets for s in read_back.samples} == {
        uri: s.targets for uri, s in before.items()
    }
    wrong = (labels != (targets == 1)) & ~np.isnan(targets)
    first = [s.image_uri for s in before.values()].index(queued[0]["image"])
    assert wrong[first].any()


def test_a_limit_cuts_neither_the_table_to_correct_nor_the_check_of_groups(
    evaluate, faces_dir, tmp_path, capfd
):
    _, output = evaluate("--crops", "dataset", "--review", "--limit", "4")
    for split in ("train", "valid", "test"):
        whole = read_dataset(f"synthetic:{faces_dir}", split).samples
        read_back = read_dataset(f"table:{output / 'relabel'}", split).samples
        assert {s.image_uri: s.targets for s in read_back} == {
            s.image_uri: s.targets for s in whole
        }
    last = read_dataset(f"synthetic:{faces_dir}", "test").samples[-1]
    table = tmp_path / "groups.csv"
    table.write_text(f"image,late\n{last.image_uri},yes\n")
    capfd.readouterr()
    flags = ["--limit", "4", "--groups", "late", "--group-table", str(table)]
    code, _ = evaluate(*flags, name="late")
    assert code == 2
    assert "--groups late" in capfd.readouterr().err


def test_scores_are_kept_where_asked_for(evaluate, trained, faces_dir):
    _, output = evaluate("--crops", "dataset", "--keep-scores")
    rows = pq.read_table(output / "scores.parquet").to_pylist()
    samples = read_dataset(f"synthetic:{faces_dir}", "test").samples
    assert [row["image_uri"] for row in rows] == [s.image_uri for s in samples]
    assert [row["smiling_target"] for row in rows] == [s.targets["smiling"] for s in samples]
    assert not any(row["found"] for row in rows)


def test_robustness_is_measured_on_a_part(evaluate):
    flags = ["--robustness", "--robustness-images", "3", "--score-threshold", "0.02"]
    code, output = evaluate(*flags, "--limit", "6")
    robustness = metrics_of(output)["robustness"]
    assert code == 0
    assert {"face_size", "blur", "jpeg", "brightness", "rotation"} <= set(robustness)
    assert robustness["blur"]["as_is"]["num_images"] == 3
    with Image.open(output / "robustness.png") as page:
        assert min(page.size) > 300
    assert "Robustness" in (output / "report.html").read_text()
