import copy
import dataclasses
import hashlib
import json

import pytest

from fattr import bundle
from fattr.attributes import AGE, PERCEIVED_GENDER_PRESENTATION, attribute
from fattr.bundle import BundleSpec
from fattr.classify.calibration import Calibration, Curve
from fattr.crop import named_rule
from fattr.errors import UsageError

WEIGHTS, ONNX = bytes(range(200)), bytes(range(100, 250))
SPEC = BundleSpec(
    name="mine",
    backbone="tiny",
    attributes=(attribute("smiling"), PERCEIVED_GENDER_PRESENTATION, AGE),
    crop_rule=named_rule("celeba", (128, 104)),
    calibration=Calibration(
        {"smiling": 1.25, "age": 0.8}, {"smiling": 0.4375}, {"smiling": (0.4, 0.6)}
    ),
    licence="CC BY 4.0, faces of Zoë",
    research_only=True,
    training={"preset": "tiny", "data": [{"name": "celeba", "images": 3}], "best_epoch": 2},
    versions={"torch": "2.9"},
)


BIASED = Calibration(
    {"smiling": 1.25}, {"smiling": 0.25}, biases={"smiling": (-0.5,), "age": (0.125,) * 9}
)
CURVED = Calibration(
    thresholds={"smiling": 0.25},
    curves={
        "smiling": (Curve((-2.0, 0.5), (0.125, 0.75)),),
        "perceived_gender_presentation": (Curve((0.0,), (0.5,)), Curve((-1.0, 1.0), (0.2, 0.9))),
    },
)


@pytest.fixture
def folder(tmp_path):
    bundle.save(tmp_path / "b", SPEC, weights=WEIGHTS, onnx=ONNX)
    return tmp_path / "b"


def refused(folder):
    with pytest.raises(UsageError) as caught:
        bundle.load(folder)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{folder}: ")
    return str(caught.value)


def rewritten(folder, description):
    (folder / bundle.DESCRIPTION).write_text(json.dumps(description))


def described(folder):
    return json.loads((folder / bundle.DESCRIPTION).read_text())


def test_what_is_saved_is_what_is_loaded(folder):
    """Equal dataclasses: tuples are tuples again, and all is hashable that was."""
    saved = bundle.save(folder, SPEC, weights=WEIGHTS, onnx=ONNX)
    loaded = bundle.load(folder)
    assert loaded.spec == SPEC == saved.spec
    assert (loaded.weights, loaded.onnx) == (WEIGHTS, ONNX)
    assert (loaded.model_id, loaded.folder) == (saved.model_id, folder)
    assert hash(loaded.spec.crop_rule) == hash(SPEC.crop_rule)
    assert hash(loaded.spec.attributes) == hash(SPEC.attributes)


def test_a_bundle_can_be_saved_again_under_the_same_id(folder, tmp_path):
    loaded = bundle.load(folder)
    again = bundle.save(tmp_path / "c", loaded.spec, weights=loaded.weights, onnx=loaded.onnx)
    assert again.model_id == loaded.model_id
    for name in (bundle.DESCRIPTION, bundle.WEIGHTS, bundle.ONNX):
        assert (tmp_path / "c" / name).read_bytes() == (folder / name).read_bytes()


def test_the_id_is_the_documented_hash(folder):
    """SHA-256 over weights, ONNX and canonical JSON without ``model_id``; done here by hand."""
    description = described(folder)
    stated = description.pop("model_id")
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert hashlib.sha256(WEIGHTS + ONNX + text.encode()).hexdigest() == stated


def test_the_layout_of_the_json_does_not_matter(folder):
    description = described(folder)
    for layout in (
        json.dumps(description, separators=(",", ":")),
        json.dumps(dict(reversed(description.items())), indent=4),
        json.dumps(description, ensure_ascii=True, sort_keys=True),
    ):
        (folder / bundle.DESCRIPTION).write_text(layout)
        assert bundle.load(folder).spec == SPEC


@pytest.mark.parametrize("name", [bundle.WEIGHTS, bundle.ONNX])
@pytest.mark.parametrize("position", [0, 70, -1])
def test_one_changed_byte_is_refused(name, position, folder):
    data = bytearray((folder / name).read_bytes())
    data[position] ^= 1
    (folder / name).write_bytes(data)
    assert "the files were changed or damaged: get the bundle again" in refused(folder)


def leaves(node, path=()):
    children = (
        node.items()
        if isinstance(node, dict)
        else enumerate(node)
        if isinstance(node, list)
        else None
    )
    if not children:
        yield path
        return
    for key, child in children:
        yield from leaves(child, (*path, key))


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 0.0625
    return f"{value}x"


def test_every_changed_value_of_the_description_is_refused(folder):
    description = described(folder)
    paths = list(leaves(description))
    assert len(paths) > 60
    assert ("calibration", "thresholds", "smiling") in paths
    for path in paths:
        tampered = copy.deepcopy(description)
        parent = tampered
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = changed(parent[path[-1]])
        rewritten(folder, tampered)
        refused(folder)
    rewritten(folder, description)
    assert bundle.load(folder).spec == SPEC


def test_an_added_or_a_removed_field_is_refused(folder):
    description = described(folder)
    rewritten(folder, description | {"extra": 1})
    assert "changed or damaged" in refused(folder)
    for name in description:
        rewritten(folder, {k: v for k, v in description.items() if k != name})
        refused(folder)


def test_card_and_figures_are_outside_the_hash(folder):
    before = bundle.load(folder)
    assert before.figures() == {}
    (folder / bundle.CARD).write_text("# Mine")
    (folder / bundle.FIGURES).write_text('{"accuracy": 0.9}')
    after = bundle.load(folder)
    assert after.model_id == before.model_id
    assert after.figures() == {"accuracy": 0.9}


@pytest.mark.parametrize("name", [bundle.DESCRIPTION, bundle.WEIGHTS, bundle.ONNX])
def test_a_missing_file_is_named(name, folder):
    (folder / name).unlink()
    assert "not a model bundle" in refused(folder)
    assert name in refused(folder)


@pytest.mark.parametrize("calibration", [BIASED, CURVED], ids=["biases", "curves"])
def test_a_grown_calibration_is_loaded_as_saved(calibration, tmp_path):
    spec = dataclasses.replace(SPEC, calibration=calibration)
    saved = bundle.save(tmp_path / "b", spec, weights=WEIGHTS, onnx=ONNX)
    loaded = bundle.load(tmp_path / "b")
    assert loaded.spec == spec
    assert loaded.model_id == saved.model_id
    again = bundle.save(tmp_path / "c", loaded.spec, weights=WEIGHTS, onnx=ONNX)
    assert again.model_id == saved.model_id
    # A reader that knows schema 1 alone would overlook what is new, and label wrongly.
    assert described(tmp_path / "b")["schema_version"] == 2


def test_a_calibration_without_new_fields_is_written_as_ever(folder):
    description = described(folder)
    assert description["schema_version"] == 1
    assert set(description["calibration"]) == {"temperatures", "thresholds", "abstain"}


@pytest.mark.parametrize("name", ["biases", "curves"])
def test_every_changed_number_of_a_grown_calibration_is_refused(name, tmp_path):
    calibration = {"biases": BIASED, "curves": CURVED}[name]
    spec = dataclasses.replace(SPEC, calibration=calibration)
    bundle.save(tmp_path / "b", spec, weights=WEIGHTS, onnx=ONNX)
    description = described(tmp_path / "b")
    paths = list(leaves(description["calibration"][name]))
    assert len(paths) == {"biases": 10, "curves": 10}[name]
    for path in paths:
        tampered = copy.deepcopy(description)
        parent = tampered["calibration"][name]
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = changed(parent[path[-1]])
        rewritten(tmp_path / "b", tampered)
        refused(tmp_path / "b")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"text"', "\x00"])
def test_a_description_of_something_else_is_refused(text, folder):
    (folder / bundle.DESCRIPTION).write_text(text)
    assert "not a model bundle" in refused(folder)


def test_bytes_that_are_no_text_are_refused(folder):
    (folder / bundle.DESCRIPTION).write_bytes(b"\xff\xfe\x00{")
    assert "not a model bundle" in refused(folder)


def test_another_schema_is_refused_by_number(folder):
    rewritten(folder, described(folder) | {"schema_version": 3})
    assert refused(folder) == f"{folder}: bundle schema 1 or 2 expected, got 3"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"name": "other"}, id="name"),
        pytest.param({"research_only": False}, id="licence"),
        pytest.param({"calibration": Calibration()}, id="calibration"),
        pytest.param({"calibration": BIASED}, id="biases"),
        pytest.param({"calibration": CURVED}, id="curves"),
        pytest.param({"crop_rule": named_rule("celeba", (128, 105))}, id="crop-rule"),
        pytest.param({"attributes": SPEC.attributes[::-1]}, id="order-of-attributes"),
    ],
)
def test_another_spec_has_another_id(change, folder, tmp_path):
    spec = dataclasses.replace(SPEC, **change)
    other = bundle.save(tmp_path / "c", spec, weights=WEIGHTS, onnx=ONNX)
    assert other.model_id != bundle.load(folder).model_id


def test_a_bundle_is_found_by_its_folder_or_its_training_output(folder, tmp_path):
    (tmp_path / "run").mkdir()
    folder.rename(tmp_path / "run" / "bundle")
    for name in (tmp_path / "run", tmp_path / "run" / "bundle"):
        assert bundle.find(str(name)).folder == tmp_path / "run" / "bundle"


def test_a_shipped_name_wins(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "shipped", lambda: {"celeba40": folder})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "celeba40").mkdir()
    assert bundle.find("celeba40").folder == folder


@pytest.mark.parametrize("name", ["", "no-such-model", "/no/such/folder"])
def test_an_unknown_model_is_refused_with_what_there_is(name, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(bundle, "shipped", lambda: {"b": folder, "a": folder})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        bundle.find(name)
    assert str(caught.value) == (
        f"unknown model {name!r}: one of ['a', 'b'], a bundle folder, "
        "or the output of jobs/train.py expected"
    )


@pytest.mark.parametrize("name", bundle.shipped() or ["none"])
def test_shipped_bundles_are_whole(name):
    if not bundle.shipped():
        pytest.skip("no bundle is shipped yet")
    found = bundle.find(name)
    assert found.spec.name == name
    assert found.spec.licence
    assert (found.folder / bundle.CARD).is_file()
