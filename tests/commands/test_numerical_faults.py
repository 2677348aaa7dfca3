"""Losses and weights that are not finite: back once with a lower rate, then the end."""

import json
import math

import pytest
import torch

from deepseg.data.segments.loader import Batch
from deepseg.model.checkpoint import read_checkpoint
from deepseg.training.optimization import Optimizer
from deepseg.training.trainer import Trainer

TRAIN = ("-train", "train.yaml")
SLOWER = 0.005
WARNING = (
    "WARNING [loss-not-finite] a loss of nan on segments of {cases}; sub-epoch {subepoch} of epoch "
    "{epoch} begins again, with 0.5 times the learning rates from now on\n"
)


@pytest.fixture
def settings(place):
    """Two sub-epochs of two batches in each of three epochs, at a rate of 0.01."""
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    place.edit("train.yaml", "subepochs: 1", "subepochs: 2")
    text = "optimiser: {name: adam, learning_rate: 0.01}\nschedule: {type: constant}\n"
    more = "steps: {average: 0.9}\ncheckpoints: {seconds: 0}\n"
    place.write("train.yaml", (place / "train.yaml").read_text() + text + more)
    return place / "runs/training"


@pytest.fixture
def poison(monkeypatch):
    """Spoil the second batch of the second sub-epoch of epoch 2, wherever a condition holds."""
    train = Trainer.train

    def given(condition):
        def poisoned(trainer, batches, tally, *, epoch, **named):
            is_second = epoch == 1 and len(tally.losses) == 2
            if is_second and condition(trainer.optimizer.learning_rate):
                batches = (
                    Batch(tuple(x * math.nan for x in batch.inputs), batch.labels, ("Zoe", "Ada"))
                    if number
                    else batch
                    for number, batch in enumerate(batches)
                )
            train(trainer, batches, tally, epoch=epoch, **named)

        monkeypatch.setattr(Trainer, "train", poisoned)

    return given


def rates(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["learning_rate"] for line in lines]


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["training"]["loss"] for line in lines]


def test_a_loss_that_is_not_finite_goes_back_once_and_lowers_the_rate(
    command, settings, poison, same_weights, tmp_path
):
    poison(lambda rate: rate > SLOWER)
    result = command(*TRAIN)
    assert (result.returncode, result.stderr) == (
        0,
        WARNING.format(cases="Ada, Zoe", subepoch=2, epoch=2),
    )
    assert rates(settings) == [0.01, SLOWER, SLOWER]
    assert read_checkpoint(settings / "models/last.save").training["slowing"] == 0.5


@pytest.mark.parametrize("steps", [7, 9, 11])
def test_the_lower_rate_survives_an_interruption(
    command, settings, poison, same_weights, monkeypatch, tmp_path, steps
):
    poison(lambda rate: rate > SLOWER)
    assert command(*TRAIN).returncode == 0
    undisturbed = settings.rename(tmp_path / "undisturbed")
    step, done = Optimizer.step, []

    def interrupting(self):
        if len(done) == steps:
            raise KeyboardInterrupt
        done.append(1)
        step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Optimizer, "step", interrupting)
        assert command(*TRAIN).returncode == 130
    assert command(*TRAIN).returncode == 0
    same_weights(settings / "models/last.save", undisturbed / "models/last.save")
    assert losses(settings) == losses(undisturbed)
    assert rates(settings) == rates(undisturbed)


def test_what_is_begun_again_is_as_if_it_had_been_slower_from_the_start(
    command, place, settings, poison, monkeypatch, same_weights, tmp_path
):
    # Spoilt in the very first sub-epoch, nothing else but the rate is different.
    train, spoilt = Trainer.train, []

    def poisoned(trainer, batches, *rest, **named):
        if not spoilt:
            spoilt.append(1)
            batches = [next(batches), Batch((next(batches).inputs[0] * math.nan,) * 2, *REST)]
        train(trainer, batches, *rest, **named)

    monkeypatch.setattr(Trainer, "train", poisoned)
    result = command(*TRAIN)
    assert result.stderr == WARNING.format(cases="Eve", subepoch=1, epoch=1)
    slowed = settings.rename(tmp_path / "slowed")
    place.edit("train.yaml", "learning_rate: 0.01", "learning_rate: 0.005")
    assert command(*TRAIN).stderr == ""
    same_weights(slowed / "models/last.save", settings / "models/last.save")
    assert losses(slowed) == losses(settings)


REST = (torch.zeros(4, 3, 3, 3, dtype=torch.int64), ("Eve",))


def test_the_second_time_ends_with_4_names_the_cases_and_keeps_what_was_good(
    command, settings, poison
):
    poison(lambda _: True)
    expected = (
        "ERROR [loss-not-finite] train.yaml: got a loss of nan on segments of Ada, Zoe; expected a "
        "finite number; fix: lower the learning rate (now 0.005) or look at these cases; the last "
        "good model is kept\n"
    )
    warning = WARNING.format(cases="Ada, Zoe", subepoch=2, epoch=2)
    for _ in range(2):  # a session that goes on tries once more, from the same state
        result = command(*TRAIN)
        assert (result.returncode, result.stderr) == (4, warning + expected)
        training = read_checkpoint(settings / "models/running.save").training
        assert (training["epoch"], training["subepoch"]) == (1, 1)
        assert len(losses(settings)) == 1


def test_after_another_rate_was_chosen_it_may_be_lowered_again(command, place, settings, poison):
    poison(lambda rate: rate == 0.01)
    assert command(*TRAIN).returncode == 0
    place.edit("train.yaml", "learning_rate: 0.01", "learning_rate: 0.02")
    place.edit("train.yaml", "\nepochs: 3", "\nepochs: 4")
    assert command(*TRAIN).returncode == 0
    assert rates(settings) == [0.01, SLOWER, SLOWER, 0.02]
