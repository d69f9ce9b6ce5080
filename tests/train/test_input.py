import dataclasses
import itertools
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from fattr import storage
from fattr.attributes import attribute
from fattr.crop import named_rule
from fattr.errors import RunError, UsageError
from fattr.labelled_crops import LabelledCrops, StreamedCrops
from fattr.train import input as train_input
from fattr.train.batches import Samples
from fattr.train.input import Feed, default_processes

RULE = named_rule("celeba", (32, 24))
LANDMARKS = np.float32([[20, 25], [40, 25], [30, 35], [22, 45], [38, 45]])
PLACES = [  # epoch, first position, rank, number of workers
    (0, 0, 0, 1),
    (0, 0, 1, 2),
    (3, 24, 2, 3),  # batches of 8: three workers get 3, 3 and 2 of each
    (1, 72, 0, 1),
    (2, 80, 0, 1),  # the epoch's end
]


def rows(data, plan, epoch, first, rank, world_size):
    """The batches of a worker by definition: every ``world_size``-th sample of each global one."""
    sample, size = Samples(data, plan), plan.recipe.batch_size
    for start in range(first, len(data) - size + 1, size):
        made = [sample(epoch, p) for p in range(start + rank, start + size, world_size)]
        yield torch.stack([crop for crop, _ in made]), torch.stack([target for _, target in made])


def assert_same(got, wanted):
    got, wanted = list(got), list(wanted)
    assert len(got) == len(wanted)
    for batch, same in zip(got, wanted, strict=True):
        for tensor, other in zip(batch, same, strict=True):
            assert tensor.dtype == other.dtype
            assert torch.equal(tensor, other)


def streamed(uris) -> LabelledCrops:
    n = len(uris)
    landmarks = np.repeat(LANDMARKS[None], n, axis=0)
    landmarks[0] = np.nan  # no face there
    crops = StreamedCrops(pa.array(uris, pa.large_string()), landmarks, RULE)
    targets = np.arange(2 * n).reshape(n, 2) % 2
    return LabelledCrops(crops, targets, np.ones(n, bool), np.ones(n, np.float32), {})


@pytest.fixture
def picture_uris(tmp_path) -> list[str]:
    for i in range(24):
        pixels = np.random.default_rng(i).integers(0, 256, (70, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    return [(tmp_path / f"{i}.png").as_uri() for i in range(24)]


@pytest.mark.parametrize("num_processes", [0, 1, 2])
def test_rows_are_the_same_for_every_number_of_processes_and_workers(
    train_crops, plan, num_processes
):
    before = torch.get_rng_state()
    with Feed(train_crops, plan, num_processes=num_processes) as feed:
        for place in PLACES:
            assert_same(feed.epoch(*place), rows(train_crops, plan, *place))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("num_processes", [0, 2])
def test_an_epoch_left_early_leaves_nothing_behind(train_crops, plan, num_processes):
    with Feed(train_crops, plan, num_processes=num_processes) as feed:
        left = feed.epoch(0, 0, 0, 1)
        next(left)
        feed.epoch(1, 0, 0, 1)  # not even begun
        assert_same(feed.epoch(1, 40, 1, 2), rows(train_crops, plan, 1, 40, 1, 2))


def test_all_workers_together_see_each_sample_of_whole_batches_once(plan):
    numbers = np.arange(75)
    crops = np.zeros((75, 32, 24, 3), np.uint8)
    targets = np.stack([numbers, numbers], axis=1)
    data = LabelledCrops(crops, targets, numbers >= 0, numbers.astype(np.float32), {})
    plan = dataclasses.replace(plan, attributes=(attribute("smiling"),) * 2)  # none is mirrored
    with Feed(data, plan, num_processes=0) as feed:
        parts = [[t for _, t in feed.epoch(0, 16, rank, 3)] for rank in range(3)]
    seen = torch.cat([t[:, 0] for t in itertools.chain.from_iterable(parts)]).tolist()
    order = Samples(data, plan).order(0)
    assert sorted(seen) == sorted(order[16:72].tolist())


def test_the_wait_is_that_since_the_epoch_began(train_crops, plan, monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(train_input.time, "monotonic", lambda: next(clock))
    with Feed(train_crops, plan, num_processes=0) as feed:
        assert len(list(feed.epoch(0, 0, 0, 1))) == 10
        assert feed.waited_s == 11  # the end is waited for as well
        next(feed.epoch(1, 0, 0, 1))
        assert feed.waited_s == 1


def test_threads_are_as_many_as_before(train_crops, plan):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with Feed(train_crops, plan, num_processes=0) as feed:
            next(feed.epoch(0, 0, 0, 1))
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("num_processes", [0, 1])
def test_streamed_crops_are_fed_as_held_ones(picture_uris, plan, num_processes):
    data = streamed(picture_uris)
    held = LabelledCrops(data.crops[:], data.targets, data.found, data.face_px, {})
    with Feed(data, plan, num_processes=num_processes) as feed:
        assert_same(feed.epoch(1, 8, 1, 2), rows(held, plan, 1, 8, 1, 2))


@pytest.mark.parametrize("num_processes", [0, 1])
def test_an_image_that_was_damaged_meanwhile_is_named_in_one_line(
    picture_uris, plan, tmp_path, num_processes
):
    (tmp_path / "7.png").write_bytes(b"no picture")
    with Feed(streamed(picture_uris), plan, num_processes=num_processes) as feed:
        with pytest.raises(UsageError, match=r"7\.png: unreadable: .*mend or remove") as caught:
            list(feed.epoch(0, 0, 0, 1))
        assert "\n" not in str(caught.value)
        (tmp_path / "7.png").unlink()
        with pytest.raises(UsageError, match=r"7\.png: missing"):
            list(feed.epoch(0, 0, 0, 1))


def test_a_gpu_is_fed_by_all_cores_but_one_and_a_network_on_cpus_by_few():
    assert [default_processes(n, on_gpu=True) for n in (1, 2, 8, 200)] == [1, 1, 7, 16]
    assert [default_processes(n, on_gpu=False) for n in (1, 2, 8, 32)] == [0, 0, 2, 8]


@pytest.mark.full
def test_a_process_that_dies_ends_the_epoch_with_one_line(train_crops, plan):
    with Feed(train_crops, plan, num_processes=2) as feed:
        batches = feed.epoch(0, 0, 0, 1)
        next(batches)
        os.kill(feed._iterator._workers[0].pid, signal.SIGKILL)
        with pytest.raises(RunError, match="run the same command again") as caught:
            list(batches)
    assert "\n" not in str(caught.value)


@pytest.mark.full
@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
        FileNotFoundError(2, "gone"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_process_that_dies_while_it_hands_over_a_batch_is_told_alike(train_crops, plan, error):
    """The bytes of a batch come through a socket of the process that made it."""

    def handed_over():
        raise error
        yield

    with Feed(train_crops, plan, num_processes=1) as feed:
        batches = feed.epoch(0, 0, 0, 1)
        next(batches)
        feed._iterator = handed_over()
        with pytest.raises(RunError, match=r"failed \(.+\), .*run the same command again"):
            next(batches)


ORPHANS = """
import sys, time
import numpy as np
from fattr.attributes import attribute
from fattr.labelled_crops import LabelledCrops
from fattr.train.input import Feed
from fattr.train.plan import Recipe, TrainPlan

def main():
    recipe = Recipe(augmentation="none", epochs=1, batch_size=4, learning_rate=1.0)
    attributes = (attribute("smiling"),)
    plan = TrainPlan(
        backbone="tiny", attributes=attributes, seed=0, init_weights=None, recipe=recipe
    )
    ones = np.ones(8, bool)
    crops = np.zeros((8, 8, 8, 3), np.uint8)
    data = LabelledCrops(crops, np.zeros((8, 1), int), ones, ones.astype(np.float32), {})
    with Feed(data, plan, num_processes=2) as feed:
        next(feed.epoch(0, 0, 0, 1))
        print(*(worker.pid for worker in feed._iterator._workers), flush=True)
        time.sleep(600)

if __name__ == "__main__":
    main()
"""


@pytest.mark.full
def test_no_process_outlives_a_killed_worker(tmp_path):
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.full
def test_no_process_holds_the_crops(plan):
    def peaks(num_crops: int) -> list[int]:
        crops = np.full((num_crops, 128, 104, 3), 7, np.uint8)
        ones = np.ones(num_crops, np.float32)
        data = LabelledCrops(crops, np.zeros((num_crops, 2), int), ones > 0, ones, {})
        with Feed(data, plan, num_processes=2) as feed:
            for _ in itertools.islice(feed.epoch(0, 0, 0, 1), 20):
                pass
            return [peak_bytes(worker.pid) for worker in feed._iterator._workers]

    few, many = peaks(200), peaks(10_000)  # 8 and 399 MB
    assert max(many) - min(few) < 40e6


def peak_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


@pytest.fixture
def fresh_server():
    """The server of processes has the environment in which it was started."""
    multiprocessing.forkserver._forkserver._stop()
    yield
    multiprocessing.forkserver._forkserver._stop()


@pytest.mark.full
@pytest.mark.usefixtures("fresh_server")
def test_processes_read_from_s3(s3_bucket, moto_client, picture_uris, plan):
    keys = [f"{s3_bucket}/faces/{i}.png" for i in range(len(picture_uris))]
    for key, uri in zip(keys, picture_uris, strict=True):
        storage.write_bytes(key, storage.read_bytes(uri))
    with Feed(streamed(keys), plan, num_processes=2) as feed:
        wanted = rows(streamed(picture_uris), plan, 0, 0, 0, 1)
        assert_same(feed.epoch(0, 0, 0, 1), wanted)
        moto_client.delete_object(Bucket=s3_bucket.removeprefix("s3://"), Key="faces/3.png")
        with pytest.raises(UsageError, match=r"faces/3\.png: missing"):
            list(feed.epoch(1, 0, 0, 1))
