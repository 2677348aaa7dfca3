"""Ends before the last epoch, and model files chosen and named by a metric."""

import json

import pytest

from deepseg.model.checkpoint import read_checkpoint

TRAIN = ("-train", "train.yaml")


def settings(place, text, epochs=6):
    place.edit("train.yaml", "\nepochs: 2", f"\nepochs: {epochs}")
    place.write("train.yaml", (place / "train.yaml").read_text() + text)


def records(place):
    lines = (place / "runs/training/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def models(place):
    return sorted(path.name for path in (place / "runs/training/models").iterdir())


STILL = """\
optimiser: {name: sgd, learning_rate: 1.0e-12}
early_stopping: {patience: 2, metric: validation_samples/loss, min_improvement: 100}
"""


def test_training_ends_when_nothing_gets_better_and_stays_ended(command, place):
    settings(place, STILL)
    reason = "validation_samples/loss did not get better in 2 epochs that have it"
    assert f"training ends: {reason}\n" in command(*TRAIN).stdout
    assert len(records(place)) == 3
    again = command(*TRAIN)
    assert again.stdout.splitlines()[-1] == f"nothing is left to do: {reason}"
    assert len(records(place)) == 3


def test_more_patience_trains_on(command, place):
    settings(place, STILL)
    assert command(*TRAIN).returncode == 0
    place.edit("train.yaml", "patience: 2", "patience: 4")
    result = command(*TRAIN)
    assert "WARNING early_stopping.patience changed since the last epoch: 2 → 4\n" in result.stderr
    assert len(records(place)) == 5


def test_an_interruption_does_not_forget_how_long_it_has_waited(command, place):
    settings(place, STILL, epochs=2)
    assert command(*TRAIN).returncode == 0
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 6")
    assert command(*TRAIN).returncode == 0
    assert len(records(place)) == 3


def test_training_ends_at_a_goal(command, place):
    settings(place, "stop_at: {metric: training/loss, value: 100}\n")
    assert "training ends: training/loss has reached 100\n" in command(*TRAIN).stdout
    assert len(records(place)) == 1


def test_the_best_model_is_chosen_by_the_metric_that_is_named(command, place):
    settings(place, "checkpoints: {best: validation_samples/loss}\n", epochs=4)
    result = command(*TRAIN)
    losses = [record["validation_samples"]["loss"] for record in records(place)]
    best = read_checkpoint(place / "runs/training/models/best.save").training
    assert best["epoch"] == losses.index(min(losses)) + 1
    assert best["best"] == -min(losses)
    assert f"best.save with validation_samples/loss {min(losses):.4g}; next" in result.stdout
    expected = [loss == min(losses[: i + 1]) for i, loss in enumerate(losses)]
    assert [record["best"] for record in records(place)] == expected


def test_kept_files_carry_epoch_and_score(command, place):
    name = "checkpoints: {every: 2, name: '{epoch:02d}_{score:.3f}', best: training/dice/mean}\n"
    settings(place, name, epochs=4)
    assert command(*TRAIN).returncode == 0
    dice = [record["training"]["dice"] for record in records(place)]
    scores = {n: (dice[n - 1]["rim"] + dice[n - 1]["core"]) / 2 for n in (2, 4)}
    remaining = [f"0{n}_{score:.3f}.save" for n, score in scores.items()]
    assert [file for file in models(place) if file[0] == "0"] == remaining


@pytest.mark.parametrize("name", ["'model'", "'{epoch:x.y}'", "'{loss}{epoch}'"])
def test_a_name_that_cannot_tell_epochs_apart_is_refused(refused, place, name):
    settings(place, f"checkpoints: {{name: {name}}}\n")
    (line,) = refused(*TRAIN)
    assert line.startswith("[checkpoint-name] ")
    assert line.endswith(
        "expected a file name with {epoch}, and perhaps {score}; fix: write it as in "
        "{epoch:03d}-{score:.3f}"
    )


def test_a_metric_that_no_epoch_has_is_refused_with_the_nearest_name(refused, place):
    settings(place, "stop_at: {metric: validation_volumes/dise/rim, value: 1}\n")
    (line,) = refused(*TRAIN, session="training")
    assert line == (
        "[metric-unknown] train.yaml: got 'validation_volumes/dise/rim' in stop_at.metric; "
        "expected a number of metrics.jsonl, such as 'validation_volumes/hausdorff95_mm/"
        "foreground', 'validation_volumes/hausdorff95_mm/rim', 'validation_volumes/hausdorff95_mm/"
        "core'; fix: correct the name, or switch this validation on; did you mean "
        "'validation_volumes/dice/rim'?"
    )
