"""``benchmarks/train``: the yardstick does what fattr's loop does, and turns are taken."""

import dataclasses
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.train import engines, minimal, turns
from benchmarks.train.__main__ import Settings, content, lines, main, shares
from fattr.classify.transforms import build_augmentation
from fattr.labelled_crops import LabelledCrops
from fattr.train.context import LocalContext
from fattr.train.input import Feed
from fattr.train.loop import Trainer

TRAINING = engines.Training(backbone="mobilenet_v2", crop_px=32, batch=8, steps=3)


@pytest.fixture(scope="module")
def data():
    """Noise, in which a fifth of the labels is missing."""
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (24, 32, 32, 3), np.uint8)
    targets = rng.integers(0, 2, (24, len(engines.ATTRIBUTES)))
    targets[rng.random(targets.shape) < 0.2] = -1
    found = np.ones(24, bool)
    return LabelledCrops(crops, targets, found, found.astype(np.float32), {})


def test_both_loops_lose_the_same_step_after_step(data, tmp_path):
    plan = engines.plan(TRAINING)
    # Without dropout, whose draws differ, and warm-up, which the yardstick leaves out.
    plan = dataclasses.replace(
        plan, recipe=dataclasses.replace(plan.recipe, dropout=0.0, warmup_frac=0.0)
    )
    trainer = Trainer(LocalContext(tmp_path), plan, data.targets)
    network = minimal.build(plan.backbone, plan.attributes, dropout=0.0)
    network.load_state_dict(trainer.network.state_dict())
    optimizer = minimal.optimizer_of(network, learning_rate=plan.recipe.learning_rate)
    trainer.model.train()
    with Feed(data, plan, num_processes=0) as feed:
        batches = list(feed.epoch(0, 0, 0, 1))
    theirs = [float(minimal.step(network, optimizer, batch)) for batch in batches]
    ours = [float(trainer.step(*batch, 1.0)) for batch in batches]
    assert len(set(ours)) == 3
    assert theirs[:2] == pytest.approx(ours[:2], rel=1e-4)
    # Adam's first steps are of one length however small a gradient, so that rounding grows.
    assert theirs[2] == pytest.approx(ours[2], rel=1e-2)


def test_both_are_fed_alike(data):
    plan = engines.plan(dataclasses.replace(TRAINING, augmentation="none"))
    held = minimal.Faces(data.crops, data.targets, "none")
    with Feed(data, plan, num_processes=0) as feed:
        ours = list(feed.epoch(0, 0, 0, 1))
    theirs = list(minimal.loader(held, batch_size=8, processes=0))

    def described(batches):
        return [[(t.shape, t.dtype, t.stride()) for t in batch] for batch in batches]

    def rows(batches):
        crops = np.concatenate([crops.numpy() for crops, _ in batches])
        targets = np.concatenate([targets.numpy() for _, targets in batches])
        return sorted(c.tobytes() + t.tobytes() for c, t in zip(crops, targets, strict=True))

    assert described(theirs) == described(ours)
    assert rows(theirs) == rows(ours)


def test_the_yardstick_mirrors_and_augments(data):
    held = minimal.Faces(data.crops, data.targets, "photo")
    augment = build_augmentation("photo", data.size_hw)
    mirrored = set()
    for index in range(10):
        torch.manual_seed(index)
        got, _ = held[index]
        torch.manual_seed(index)
        mirrored.add(flip := bool(torch.rand(1) < 0.5))
        crop = data.crops[index][:, ::-1] if flip else data.crops[index]
        wanted = augment(torch.from_numpy(crop.copy()).permute(2, 0, 1))
        assert torch.equal(got.permute(2, 0, 1), wanted)
    assert mirrored == {True, False}


def test_drawn_faces_are_labelled_and_come_round_again(tmp_path):
    engines.draw(tmp_path, 32)
    found = engines.faces(tmp_path, engines.NUM_DRAWN + 2)
    assert found.size_hw == (32, 32)
    assert np.array_equal(found.crops[-2:], found.crops[:2])
    assert len(np.unique(found.crops, axis=0)) > engines.NUM_DRAWN * 0.9
    known = found.targets >= 0
    assert 0.1 < known.mean() < 0.9
    assert {0, 1} <= set(found.targets[known])


def test_a_slices_first_steps_and_its_neighbours_do_not_count():
    ends = np.array([0.0, 1, 11, 13, 14, 15.5, 17, 40])
    assert turns.seconds_a_step(ends, 10, 20) == pytest.approx(1.5)
    with pytest.raises(SystemExit, match="longer --slice-s"):
        turns.seconds_a_step(ends, 10, 15)


def test_a_drift_common_to_both_cancels_out():
    drift = 1 + 0.1 * np.arange(8)  # of a machine that becomes slower, slice by slice
    base, other = drift[::2], drift[1::2] / 0.8
    assert turns.speeds_beside(other, base) == pytest.approx([0.8] * 3)


WORKS = """
import subprocess, sys, time
if len(sys.argv) > 2:
    subprocess.Popen([sys.executable, *sys.argv[2:]])
with open(sys.argv[1], "a", buffering=1) as log:
    while True:
        log.write(f"{time.monotonic()}\\n")
        time.sleep(0.01)
"""


def states(pids):
    found = set()
    for pid in pids:
        stat = Path(f"/proc/{pid}/stat")
        found.add(stat.read_text().rpartition(")")[2].split()[0] if stat.exists() else "gone")
    return found


def wait_for(what):
    give_up = time.monotonic() + 20
    while not what():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_a_stopped_training_stands_still_with_all_its_processes(tmp_path):
    script = tmp_path / "works.py"
    script.write_text(WORKS)
    log, childs = tmp_path / "log", tmp_path / "childs"
    command = [sys.executable, str(script), str(log), str(script), str(childs)]
    with turns.stopped(turns.Runner(command, {}, log)) as pid:
        pids = turns.family(pid)
        assert len(pids) == 2
        wait_for(lambda: states(pids) == {"T"})
        before = len(turns.ends_of_steps(log))
        turns.signal_all(pid, signal.SIGCONT)
        wait_for(lambda: len(turns.ends_of_steps(log)) > before)
        assert "T" not in states(pids)
    wait_for(lambda: states(pids) <= {"gone", "Z"})


def test_a_training_that_ends_at_once_is_told(tmp_path):
    runner = turns.Runner([sys.executable, "-c", "raise SystemExit"], {}, tmp_path / "log")
    with pytest.raises(SystemExit, match="did not begin"), turns.stopped(runner):
        pass


FOUND = {"minimal": [0.1, 0.1, 0.2], "local": [0.125, 0.1875, 0.2]}


def test_what_is_told():
    assert shares(FOUND)["local of minimal"] == pytest.approx([0.8, 0.8, 0.8])
    told = lines(FOUND, batch=32)
    assert "| minimal | 320.0 | 160.0, 320.0 | 100.0 |" in told
    assert told[-1].startswith("local of minimal: 0.800 of its images/s")
    report = content(Settings(training=dataclasses.replace(TRAINING, threads=3)), FOUND)
    assert report["threads"] == 3
    assert report["seconds_a_step"] == FOUND
    assert {"command", "date", "hardware", "versions", "shares"} < report.keys()


def test_an_unknown_engine_is_a_wrong_request(capsys):
    assert main(Settings(engines="minimal,rai")) == 2
    assert "--engines rai: one of minimal, local, ray expected" in capsys.readouterr().err
