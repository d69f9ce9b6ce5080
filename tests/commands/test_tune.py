"""What a search is asked to do, checked before any work, and what it tells; nothing is trained."""

import dataclasses
import json
import shlex
import tomllib

import pytest

from fattr import storage
from fattr.attributes import attribute
from fattr.cli import _parse, run_job
from fattr.commands.tune import (
    Job,
    Progress,
    best_settings,
    build_plans,
    check_flags,
    finish,
    record_of,
    request_of,
    train_command,
    trial_config,
)
from fattr.config import TrainConfig, TuneConfig
from fattr.datasets.split import DatasetSplit
from fattr.errors import RunError, StorageError, UsageError
from fattr.presets import train_preset
from fattr.records import Sample
from fattr.tuning.preset_file import resolved
from fattr.tuning.space import Choice, IntRange, LogUniform, draw
from fattr.tuning.trials import State, Trial, checkpoints_of, write_trial

ATTRIBUTES = (attribute("smiling"), attribute("bald"))
TINY = train_preset("tiny")
SPACE = {"learning_rate": LogUniform(1e-4, 1e-1), "backbone": Choice(("tiny", "resnet18"))}


def config(**fields):
    given = {
        "preset": "tiny",
        "data": ("synthetic:d",),
        "output": "o",
        "space": "rate",
        "trials": 2,
    }
    return TuneConfig(**(given | fields))


def trials(*settings):
    return [Trial(number=n, settings=one) for n, one in enumerate(settings)]


def split_of(name, n=3):
    samples = tuple(Sample(f"file:///{name}/{i}.jpg", {"smiling": i % 2}) for i in range(n))
    return DatasetSplit(
        name="drawn",
        split=name,
        attributes=ATTRIBUTES,
        samples=samples,
        licence="",
        research_only=False,
    )


def test_a_trial_is_the_preset_with_its_settings_and_the_flags():
    settings = (
        {"backbone": "resnet18", "learning_rate": 0.5},
        {"backbone": "tiny", "learning_rate": 0.1},
    )
    plans = build_plans(config(dropout=0.3, batch_size=4), TINY, ATTRIBUTES, trials(*settings))
    for number, one in enumerate(settings):
        plan = plans[number]
        assert (plan.backbone, plan.recipe.learning_rate) == (one["backbone"], one["learning_rate"])
        assert (plan.recipe.dropout, plan.recipe.batch_size) == (0.3, 4)
        assert plan.recipe.epochs == TINY.recipe.epochs


def test_first_weights_are_held_once_a_backbone(tmp_path):
    import torch

    from fattr.classify.network import AttributeNet

    path = tmp_path / "tiny.pth"
    torch.save(AttributeNet("tiny", ATTRIBUTES).features.state_dict(), path)
    many = trials(*({"learning_rate": 10.0**-n} for n in range(4)))
    plans = build_plans(config(init=str(path)), TINY, ATTRIBUTES, many)
    assert len({id(plan.init_weights) for plan in plans.values()}) == 1
    assert plans[0].init_weights == path.read_bytes()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"learning_rate": -1.0},
            "trial 001 of --space rate (learning_rate = -1.0): settings do not",
        ),
        ({"epochs": 3, "frozen_epochs": 3}, "frozen_epochs must be under 3: 3"),
        (
            {"backbone": "resnet17"},
            'trial 001 of --space rate (backbone = "resnet17"): unknown back',
        ),
        ({"backbone": "vgg16_bn", "first_scale": 0.4}, "vgg16_bn needs crops of 32 px or more"),
        ({"batch_size": 1}, "must leave each part 2 samples or more"),
    ],
)
def test_a_trial_that_cannot_be_is_refused_before_any_work(settings, said):
    with pytest.raises(UsageError) as caught:
        build_plans(config(), TINY, ATTRIBUTES, trials({"learning_rate": 0.1}, settings))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"trials": 0}, "--trials must be 1 or more: 0"),
        ({"concurrent": 0}, "--concurrent must be 1 or more: 0"),
        ({"gpus_per_trial": 1.5}, "--gpus-per-trial must be in [0, 1]: 1.5"),
        ({"reduction": 1}, "--reduction must be 2 or more: 1"),
        ({"epochs": 0}, "--epochs must be 1 or more: 0"),
        ({"workers": "2"}, "--workers: a trial has one worker"),
        ({"gpus": True}, "--gpus: say --gpus-per-trial 1"),
        ({"learning_rate": 0.1}, "--learning-rate is searched by --space rate: leave out one"),
        ({"grace_epochs": 7}, "--grace-epochs 7: 6 or fewer expected"),
    ],
)
def test_wrong_flags_are_refused(fields, said):
    def ask():
        asked = config(**fields)
        check_flags(asked, SPACE)
        build_plans(asked, TINY, ATTRIBUTES, trials({"learning_rate": 0.1}))

    with pytest.raises(UsageError) as caught:
        ask()
    assert said in str(caught.value)


def test_a_search_is_the_same_whatever_it_has_to_work_with():
    splits = ([split_of("train")], [split_of("valid")])
    settings = {"backbone": "tiny", "learning_rate": 0.1}

    def request(space=SPACE, **fields):
        asked = config(**fields)
        plan = build_plans(asked, TINY, ATTRIBUTES, trials(settings))[0]
        return request_of(asked, TINY, space, plan, splits)

    same = request()
    elsewhere = {
        "output": "p",
        "trials": 9,
        "concurrent": 3,
        "gpus_per_trial": 0.5,
        "device": "cpu",
    }
    assert request(**elsewhere, cache_bytes=5, num_checkpoints=3) == same
    assert not {"learning_rate", "backbone", "init"} & set(same)
    wider = SPACE | {"learning_rate": LogUniform(1e-5, 1e-1)}
    for other in (
        request(space=wider),
        request(seed=1),
        request(dropout=0.3),
        request(grace_epochs=2),
        request(reduction=2),
        request(detect_size=320),
    ):
        assert other != same


def test_the_command_of_the_best_trial_is_its_training():
    asked = config(
        data=("synthetic:/a folder", "celeba:/c"),
        deterministic=True,
        dropout=0.0,
        grace_epochs=2,
        detector="my det.pth",
    )
    one = trial_config(asked, {"learning_rate": 3e-05, "binary": "focal"}, "/runs/it's/best")
    words = shlex.split(train_command(one))
    assert words[:2] == ["python", "jobs/train.py"]
    assert _parse(TrainConfig, "train", words[2:]) == one
    assert one.learning_rate == 3e-05
    assert (one.dropout, one.deterministic) == (0.0, True)
    assert one.output == "/runs/it's/best"


def test_the_best_settings_are_the_whole_training(tmp_path):
    best = Trial(
        number=0,
        settings={"learning_rate": 0.1},
        history=({"epoch": 1.0, "valid_score": 0.5}, {"epoch": 2.0, "valid_score": 0.75}),
    )
    asked = config(dropout=0.3, seed=4, output="s3://b/runs/")
    plans = build_plans(asked, TINY, ATTRIBUTES, [best])
    text = best_settings(Job(asked, TINY, SPACE, plans, [], [], "s3://b/runs", {}), best, 9)
    first, command, *_ = text.splitlines()
    assert first == "# trial 000 of 9: valid_score 0.7500 at epoch 2"
    trained = _parse(TrainConfig, "train", shlex.split(command)[3:])
    assert trained.output == "s3://b/runs/best"
    assert trained.seed == 4  # which is no part of a preset
    assert tomllib.loads(text) == {"preset": "tiny", "learning_rate": 0.1, "dropout": 0.3}
    (tmp_path / "best.toml").write_text(text)
    again = dataclasses.replace(trained, preset=str(tmp_path / "best.toml"))
    assert resolved(again) == trained
    bare = TrainConfig(preset=again.preset, data=trained.data, output=trained.output, seed=4)
    assert resolved(bare) == trained


@pytest.mark.parametrize(
    ("said", "flags", "on"),
    [
        ("compile = true\ndeterministic = true", {}, "--compile, --deterministic"),
        ("compile = true\ndeterministic = true", {"compile": True}, "--deterministic"),
        ("compile = false\ndropout = 0.5\naccumulate = 1", {}, ""),
    ],
)
def test_a_switch_that_a_preset_file_turns_on_is_told(tmp_path, caplog, said, flags, on):
    """--no-compile cannot turn it off: it says what its absence does."""
    caplog.set_level("INFO", logger="fattr")
    file = tmp_path / "mine.toml"
    file.write_text(f'preset = "tiny"\n{said}\n')
    resolved(config(preset=str(file), **flags))
    told = f"--preset {file} turns on {on}; to have it off, change the file: --no-"
    assert [message[: len(told)] for message in caplog.messages] == ([told] if on else [])


def finish_of(job):
    with record_of(job, Held()) as record:
        return finish(job, Held(), record)


class Held:
    """A lease, held or lost."""

    def __init__(self, *, is_lost=False):
        self.is_lost = is_lost

    def check(self):
        if self.is_lost:
            raise RunError("the lease was lost")


def job_of(tmp_path, *ended):
    """A search whose trials came to these ends."""
    asked, rate = config(trials=len(ended)), {"learning_rate": SPACE["learning_rate"]}
    known = [
        dataclasses.replace(trial, number=n, settings=draw(rate, asked.seed, n))
        for n, trial in enumerate(ended)
    ]
    plans = build_plans(asked, TINY, ATTRIBUTES, known)
    job = Job(asked, TINY, rate, plans, [], [], tmp_path.as_uri(), {})
    for trial in known:
        write_trial(job.output, trial)
    return job


FAILED = Trial(
    number=0,
    settings={},
    state=State.FAILED,
    reason="the loss became NaN",
    history=({"epoch": 1.0, "valid_score": 0.9},),
)
FINISHED = Trial(
    number=0, settings={}, state=State.FINISHED, history=({"epoch": 1.0, "valid_score": 0.4},)
)


def test_a_search_of_which_nothing_could_be_trained_ends_as_such(tmp_path, caplog):
    assert finish_of(job_of(tmp_path, FAILED, FAILED)) == 1
    assert "no trial could be trained (the loss became NaN): choose another --space" in caplog.text
    assert (tmp_path / "trials.parquet").exists()
    assert not (tmp_path / "best.toml").exists()


def test_at_the_end_the_best_is_written_and_no_checkpoint_is_left(tmp_path):
    job = job_of(tmp_path, FAILED, FINISHED)
    left = storage.local_path(checkpoints_of(job.output, 1)) / "epoch-00001" / "state.json"
    left.parent.mkdir(parents=True)
    left.write_text("{}")  # a kill came between the record and this
    assert finish_of(job) == 0
    assert (tmp_path / "best.toml").read_text().startswith("# trial 001 of 2: valid_score 0.4000")
    assert sorted(p.name for p in tmp_path.glob("trials/*/*")) == ["trial.json"] * 2


def test_nothing_is_written_once_the_lease_is_lost(tmp_path):
    job = job_of(tmp_path, Trial(number=0, settings={}))
    (waiting,) = job.trials()
    epoch = waiting.with_epoch({"epoch": 1.0, "valid_score": 0.5})
    before = []

    def lose(end) -> None:
        lease = Held()
        with record_of(job, lease) as record:
            before.append((tmp_path / "run.json").read_bytes())
            lease.is_lost = True
            end(lease, record)

    for end in (
        lambda lease, record: Progress(job, lease, record)(epoch),
        lambda lease, record: finish(job, lease, record),
    ):
        with pytest.raises(RunError, match="the lease was lost"):
            lose(end)
        assert (tmp_path / "run.json").read_bytes() == before[-1]
    assert job.trials() == [waiting]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trials"]


def said_of(job):
    return json.loads(storage.read_bytes(storage.join(job.output, "run.json")))


def test_run_json_tells_the_search_and_how_it_ended(tmp_path):
    job = job_of(tmp_path, FAILED, Trial(number=0, settings={}))
    job = dataclasses.replace(job, request={"preset": "tiny"})
    _, waiting = job.trials()
    problem = r"^s3://b/t: unavailable: 503; what is done is kept: mend"
    with pytest.raises(RunError, match=problem), record_of(job, Held()):
        raise StorageError("unavailable", "s3://b/t", "503")
    first = said_of(job)
    assert (first["job"], first["exit_code"], first["settings"]) == ("tune", 3, {"preset": "tiny"})
    assert first["error"].startswith("s3://b/t: unavailable")
    assert {"ray", "torch", "python"} <= set(first["versions"])
    with record_of(job, Held()) as record:
        progress = Progress(job, Held(), record)
        over = waiting.with_epoch({"epoch": 1.0, "valid_score": 0.5}).ended(State.FINISHED)
        progress(over)
        assert finish(job, Held(), record) == 0
    again = said_of(job)
    assert again["run_id"] == first["run_id"]
    assert (again["exit_code"], again["error"], again["trials_over"]) == (0, None, 2)
    events = [event["event"] for event in again["timeline"]["events"]]
    assert events == ["began", "failed", "continued", "trial", "finished"]
    assert [num for _, num in again["timeline"]["throughput"]] == [2]


def test_a_wrong_space_is_one_line_and_writes_nothing(tmp_path, capsys):
    argv = ["--space", "nowhere", "--preset", "tiny", "--data", "synthetic:d", "--trials", "2"]
    assert run_job("tune", [*argv, "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said == "fattr tune: --space nowhere: a TOML file or one of rate, recipe expected\n"
    assert list(tmp_path.iterdir()) == []


def test_an_integer_range_gives_whole_numbers():
    space = {"epochs": IntRange(2, 4)}
    plans = build_plans(config(), TINY, ATTRIBUTES, trials({"epochs": space["epochs"].at(0.5)}))
    assert plans[0].recipe == dataclasses.replace(TINY.recipe, epochs=3)
