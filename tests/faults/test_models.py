"""Models that have learnt nothing, or belong to another session: never applied without a word."""

from deepseg.model.checkpoint import read_checkpoint


def test_a_model_file_without_weights_is_refused_for_a_test(refused, command):
    assert command("-check", "test.yaml", "-model", "model.yaml").stderr == ""
    assert refused("-test", "test.yaml", "-model", "model.yaml", session="results") == [
        "[model-untrained] model.yaml: got a model file without weights, which makes a random "
        "network; expected weights that have learnt; fix: give the .save of a training session, "
        "or its weights with -load; to see what a random network does, build it first: -newModel "
        "model.yaml -out RANDOM.save"
    ]


def test_a_new_head_that_has_not_learnt_is_named(command, place, model):
    fill = ("-newModel", "model.yaml", "-pretrained", model, "-out", "B.save")
    assert command(*fill).returncode == 0
    warning = (
        "WARNING B.save: weights of fc.1 are random: no older model has filled them, and they have "
        "learnt nothing since; train the model first"
    )
    tested = command("-test", "test.yaml", "-model", "B.save")
    assert (tested.returncode, tested.warnings) == (0, [warning])
    assert command("-export", "B.save", "safetensors", "-out", "exported").warnings == [warning]
    assert command(*fill[:-1], "C.save", "-layers", "all").returncode == 0
    assert command("-export", "C.save", "safetensors", "-out", "C").warnings == []
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 1")
    assert command("-train", "train.yaml", "-model", "B.save").returncode == 0
    assert not read_checkpoint("runs/training").is_random
    assert command("-export", "runs/training", "safetensors", "-out", "D").warnings == []
