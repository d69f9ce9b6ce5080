"""How many trials run at once."""

import pytest

from fattr.errors import UsageError
from fattr.sizing import Resources
from fattr.tuning.room import room_for


def resources(cpus=4.0, gpus=0.0, cores=2, is_local=True, nodes=1):
    return Resources(cpus=cpus, gpus=gpus, nodes=nodes, is_local=is_local, usable_cpus=cores)


def cluster(gpus=0.0):
    """Four nodes of 16 cores."""
    return resources(cpus=64.0, gpus=gpus, is_local=False, nodes=4)


@pytest.mark.parametrize(
    ("there", "at_once", "per_trial", "expected"),
    [
        (resources(), None, 0.0, (2, 1.0, 1)),  # a trial a core, though Ray counts four CPUs
        (resources(), 1, 0.0, (1, 1.0, 2)),
        (resources(), 8, 0.0, (8, 0.5, 1)),  # more than CPUs: each holds less than one
        (cluster(), None, 0.0, (64, 1.0, 1)),
        (cluster(), 8, 0.0, (8, 1.0, 8)),
        (cluster(), 2, 0.0, (2, 1.0, 16)),  # no more threads than one node has cores
        (cluster(gpus=2.0), None, 1.0, (2, 1.0, 16)),
        (resources(cpus=16.0, gpus=2.0, cores=16), None, 0.5, (4, 1.0, 4)),
        (resources(cpus=16.0, gpus=2.0, cores=16), None, 0.4, (4, 1.0, 4)),  # two on each, not five
        (resources(cpus=16.0, gpus=2.0, cores=16), 3, 1.0, (2, 1.0, 8)),
        (resources(cpus=2.0, gpus=1.0), None, 0.25, (4, 0.5, 1)),
    ],
)
def test_as_many_as_there_is_room_for(there, at_once, per_trial, expected):
    room = room_for(there, at_once=at_once, gpus_per_trial=per_trial)
    assert (room.num_trials, room.cpus, room.num_threads) == expected
    assert room.gpus == per_trial
    assert room.num_trials * room.cpus <= there.cpus


def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(UsageError, match=r"--gpus-per-trial 0.5: the cluster has no GPU"):
        room_for(resources(), at_once=None, gpus_per_trial=0.5)
