"""To go on, to fine-tune, to begin from scratch: three things that cannot be mixed up."""

import json

import pytest
import torch

from deepseg.model.checkpoint import read_checkpoint
from deepseg.model.provenance import Provenance

TRAIN = ("-train", "tune.yaml", "-model", "M.save")
PHRASE = "(Re)Initializing parameters for the optimization. Reason: Uninitialized: "


def tuning(place, **changes):
    """A session of another name, one epoch long."""
    text = (place / "train.yaml").read_text()
    text = text.replace("name: training", "name: tuned").replace("\nepochs: 2", "\nepochs: 1")
    for old, new in changes.values():
        assert text.count(old) == 1
        text = text.replace(old, new)
    place.write("tune.yaml", text)


def records(place, session="tuned"):
    lines = (place / f"runs/{session}/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def weights(file):
    return read_checkpoint(file).weights


def test_a_model_in_its_training_is_not_taken_into_another_session_unasked(refused, place, model):
    tuning(place)
    assert refused(*TRAIN, session="tuned") == [
        "[start-undecided] M.save: got a model that session 'training' has trained for 2 epochs; "
        "expected a model without an optimiser's state, or -resetOptimizer; fix: add "
        "-resetOptimizer to fine-tune it: its weights, everything else from the start; or give the "
        "command of session 'training' again to train that session on"
    ]


def test_the_same_holds_where_the_train_file_names_the_model(refused, place, model):
    tuning(place, model=("model: model.yaml", "model: M.save"))
    (line,) = refused("-train", "tune.yaml", session="tuned")
    assert line.startswith("[start-undecided] HERE/M.save: got a model that session 'training' ")


def test_fine_tuning_keeps_the_weights_and_begins_everything_else_anew(command, place, model):
    tuning(place)
    result = command(*TRAIN, "-resetOptimizer")
    assert (result.returncode, result.stderr) == (0, "")
    count = len(weights(place / "M.save"))
    lines = result.stdout.splitlines()
    message = lines.index(f"{PHRASE}[False], Reset requested: [True]")
    standing = f"weights: {count}/{count} tensors from M.save; epoch 0 of 1; learning rate 0.001"
    before, first = lines.index(standing), [n for n in lines if n.startswith("epoch 1 of 1, ")]
    assert message < before
    (judged,) = [n for n in lines if n.startswith("before training: validation loss ")]
    assert before < lines.index(judged) < lines.index(first[0])
    state = read_checkpoint(place / "runs/tuned/models/last.save").training
    assert (state["epoch"], state["session"], len(state["scores"])) == (1, "tuned", 1)
    assert set(state["optimizer"]["steps"].values()) == {2}


def test_a_folder_of_a_session_means_its_best_model(command, place, model):
    models = place / "runs/training/models"
    models.mkdir(parents=True)
    (place / model).rename(models / "last.save")
    tuning(place)
    result = command("-train", "tune.yaml", "-model", "runs/training", "-resetOptimizer")
    assert (result.returncode, result.stderr) == (0, "")
    assert " tensors from runs/training/models/last.save; epoch 0 of 1; " in result.stdout


def test_cases_that_are_prepared_otherwise_than_before_are_refused_or_accepted(
    command, refused, place, model
):
    tuning(place)
    settings = (place / "tune.yaml").read_text() + "preparation: {z_score: none}\n"
    place.write("tune.yaml", settings)
    assert refused(*TRAIN, "-resetOptimizer", session="tuned") == [
        "[preparation-differs] tune.yaml: got cases prepared with z_score none, orientation LSA; "
        "expected what M.save has learnt with, z_score, orientation LSA; fix: write the same "
        "preparation into the train file; or accept the difference with 'accept: [preparation]'"
    ]
    place.write("tune.yaml", settings + "accept: [preparation]\n")
    result = command(*TRAIN, "-resetOptimizer")
    warning = (
        "WARNING M.save has learnt from cases prepared with z_score, orientation LSA; this session "
        "prepares them with z_score none, orientation LSA"
    )
    assert (result.returncode, result.warnings) == (0, [warning])
    place.edit("tune.yaml", "\nepochs: 1", "\nepochs: 2")
    assert "prepare" not in command("-train", "tune.yaml").stderr  # it goes on with its own


def test_the_alias_does_the_same(command, place, model):
    tuning(place)
    result = command(*TRAIN, "-resetopt")
    assert f"{PHRASE}[False], Reset requested: [True]\n" in result.stdout


def test_what_the_weights_can_do_before_is_what_they_could_at_the_end(
    command, place, model, trained
):
    tuning(place)
    assert command(*TRAIN, "-resetOptimizer").returncode == 0
    before, first = records(place)
    assert (before["epoch"], first["epoch"]) == (-1, 0)
    assert before.keys() == {"epoch", "validation_samples", "validation_volumes"}
    lines = (trained / "runs/training/metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    for part in ("validation_samples", "validation_volumes"):
        assert before[part]["dice"] == pytest.approx(last[part]["dice"])
    assert (place / "runs/tuned/progress.png").stat().st_size > 0


def test_going_on_does_not_judge_again_and_does_not_reset(command, place, model):
    tuning(place)
    assert command(*TRAIN, "-resetOptimizer").returncode == 0
    place.edit("tune.yaml", "\nepochs: 1", "\nepochs: 2")
    again = command("-train", "tune.yaml")
    assert again.returncode == 0
    assert "continuing the session in HERE/runs/tuned\n" in again.stdout
    assert PHRASE not in again.stdout
    assert "before training" not in again.stdout
    assert "HERE/runs/tuned/models/last.save; epoch 1 of 2; learning rate " in again.stdout
    assert [record["epoch"] for record in records(place)] == [-1, 0, 1]


def test_resetting_a_session_that_has_begun_asks_for_a_decision(refused, command, place, model):
    tuning(place)
    assert command(*TRAIN, "-resetOptimizer").returncode == 0
    assert refused(*TRAIN, "-resetOptimizer", session="tuned") == [
        "[session-has-begun] tune.yaml: got -resetOptimizer for a session that has "
        "HERE/runs/tuned/models/last.save; expected a session without models; fix: remove "
        "-resetOptimizer to go on; or give the session another name, or remove HERE/runs/tuned, to "
        "start over"
    ]


def test_a_new_model_needs_no_decision_and_is_not_judged_before_it_learns(command, place):
    tuning(place)
    result = command("-train", "tune.yaml")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{PHRASE}[True], Reset requested: [False]\n" in result.stdout
    assert (
        "weights: new, from HERE/model.yaml; epoch 0 of 1; learning rate 0.001\n" in result.stdout
    )
    assert "before training" not in result.stdout
    assert [record["epoch"] for record in records(place)] == [0]


def test_a_model_filled_from_another_is_judged_before_it_learns(command, place, model):
    tuning(place)
    fill = ("-newModel", "model.yaml", "-pretrained", "M.save", "-out", "B.save")
    assert command(*fill).returncode == 0
    result = command("-train", "tune.yaml", "-model", "B.save")
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{PHRASE}[True], Reset requested: [False]\n" in result.stdout
    assert [record["epoch"] for record in records(place)] == [-1, 0]


def test_from_scratch_takes_the_architecture_only(command, place, model):
    tuning(place)
    result = command(*TRAIN, "-fromScratch")
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "weights: new, from the architecture of M.save; epoch 0 of 1; learning rate 0.001\n"
        in result.stdout
    )
    assert not (place / "runs/tuned").exists()
    assert [record["epoch"] for record in records(place, "tuned-scratch")] == [0]
    scratch = read_checkpoint(place / "runs/tuned-scratch/models/last.save")
    assert scratch.provenance == Provenance(seed=0).trained("tuned-scratch", epochs=1)


def test_from_scratch_is_what_a_new_model_of_the_same_seed_learns(
    command, place, model, same_weights
):
    tuning(place)
    assert command(*TRAIN, "-fromScratch", "-seed", "3").returncode == 0
    place.edit("tune.yaml", "name: tuned", "name: other\nseed: 3")
    assert command("-train", "tune.yaml").returncode == 0
    same_weights(
        place / "runs/tuned-scratch-seed3/models/last.save", place / "runs/other/models/last.save"
    )


def test_seeds_have_folders_and_results_of_their_own(command, place):
    tuning(place)
    for seed in ("1", "2"):
        assert command("-train", "tune.yaml", "-seed", seed).returncode == 0
    item, two = (weights(place / f"runs/tuned-seed{n}/models/last.save") for n in (1, 2))
    assert not torch.equal(item["fc.1.conv.weight"], two["fc.1.conv.weight"])
    again = command("-train", "tune.yaml", "-seed", "1")
    assert "continuing the session in HERE/runs/tuned-seed1\n" in again.stdout


def test_options_of_training_mean_nothing_to_other_commands(refused):
    assert refused("-test", "test.yaml", "-resetopt", "-fromScratch") == [
        "[command-line] got -resetOptimizer with -test; expected -resetOptimizer with -train; fix: "
        "remove -resetOptimizer",
        "[command-line] got -fromScratch with -test; expected -fromScratch with -train, "
        "-compare; fix: remove -fromScratch",
    ]
