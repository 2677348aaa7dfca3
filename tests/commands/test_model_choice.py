"""A model that is named is used, or a warning tells which one replaces it, or it is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from deepseg.model.checkpoint import read_checkpoint
from deepseg.transfer.sources.tensor_bundle import read_bundle
from tests.tensorflow import write_checkpoint

MODELS = "runs/training/models"
CFG = """\
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [3, 4]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3]]
useSubsampledPathway = True
dropoutRatesFc = [0]
segmentsDimTrain = [9,9,9]
segmentsDimInference = [11,11,11]
"""
TRAIN_CFG = """\
sessionName = "old"
folderForOutput = "runs"
cnnModelFilePath = "X.model.ckpt"
dataframe_train = "data/train.csv"
numberOfEpochs = 1
numberOfSubepochs = 1
numberTrainingSegmentsLoadedOnGpuPerSubep = 8
batchsize_train = 4
"""
TEST_CFG = """\
sessionName = "old"
folderForOutput = "runs"
cnnModelFilePath = "X.model.ckpt"
dataframe = "data/test.csv"
norm_zscore_prms = {'apply_to_all_channels': True}
"""


@pytest.fixture
def other(command, place, model):
    """A model of another width, ``B.save``, and its model file ``wide.yaml``."""
    place.write("wide.yaml", (place / "model.yaml").read_text().replace("[3, 4]", "[3, 5]"))
    assert command("-newModel", "wide.yaml", "-out", "B.save").returncode == 0
    return "B.save"


@pytest.fixture
def deepmedic(place):
    """A checkpoint of DeepMedic after 7 epochs, its model config and its train and test files."""
    place.write("M.cfg", CFG)
    place.write("T.cfg", TRAIN_CFG)
    place.write("E.cfg", TEST_CFG)
    for table in ("data/train.csv", "data/test.csv"):
        place.edit(table, "channel_T1,channel_FLAIR", "channel_channel1,channel_channel2")
    write_checkpoint(place / "X.model.ckpt", place / "M.cfg", epochs=7)
    return "X.model.ckpt"


def epochs(place):
    lines = (place / "runs/training/metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["epoch"] for line in lines]


# Two files of weights, or two descriptions


def test_weights_of_the_command_line_replace_those_of_the_file_with_a_warning(
    command, place, model, other
):
    place.edit("test.yaml", "output: runs", "output: runs\nmodel: B.save")
    result = command("-test", "test.yaml", "-model", "M.save")
    assert (result.returncode, result.warnings) == (
        0,
        [
            "WARNING HERE/B.save of the config file is not used: M.save on the command line is",
        ],
    )
    assert "weights: M.save\n" in result.stdout


def test_a_model_file_of_the_train_file_is_replaced_with_a_warning_if_it_differs(
    command, place, model
):
    place.edit("model.yaml", "[3, 4]", "[3, 5]")
    again = command("-train", "train.yaml", "-model", "M.save", "-resetOptimizer")
    assert (again.returncode, again.warnings) == (
        0,
        ["WARNING HERE/model.yaml of the config file is not used: M.save on the command line is"],
    )


def test_two_files_of_weights_on_the_command_line_exclude_each_other(refused, model, other):
    assert refused(
        "-test", "test.yaml", "-model", "M.save", "-load", "B.save", session="results"
    ) == [
        "[models-exclude] test.yaml: got -load B.save with -model M.save; expected weights from "
        "one place; fix: give one of the two; -model beside -load is a model file"
    ]


def test_the_same_file_twice_is_one_model(command, model):
    assert command("-check", "test.yaml", "-model", "M.save", "-load", "./M.save").returncode == 0


def test_load_takes_weights(refused):
    assert refused("-train", "train.yaml", "-load", "model.yaml", session="training") == [
        "[models-exclude] train.yaml: got -load model.yaml, a model file; expected a file of "
        "weights: a .save, or a checkpoint of DeepMedic; fix: give it as -model model.yaml"
    ]


def test_two_model_files_exclude_each_other(refused, place):
    place.edit("test.yaml", "output: runs", "output: runs\nmodel: [model.yaml, wide.yaml]")
    assert refused("-test", "test.yaml", session="results") == [
        "[models-exclude] test.yaml: got 2 model files in the config file: HERE/model.yaml, "
        "HERE/wide.yaml; expected one, or several files of weights; fix: name one model file"
    ]


# A description beside weights


@pytest.mark.parametrize("command_name", ["-test", "-check"])
def test_another_network_than_that_of_the_weights_is_refused(
    refused, place, model, other, command_name
):
    (line,) = refused(
        command_name, "test.yaml", "-model", "wide.yaml", "-load", "M.save", session="results"
    )
    assert line == (
        "[network-differs] wide.yaml: got a model file with normal.2.outputs 5, sub1.2.outputs 5, "
        "fc.1.inputs 10; expected the network of M.save: normal.2.outputs 4, sub1.2.outputs 4, "
        "fc.1.inputs 8; fix: leave this file out, as the other one describes its own network; or "
        "give the weights that belong to it"
    )


def test_a_model_file_beside_the_weights_of_the_train_file_is_compared_with_them(
    refused, place, model, other
):
    place.edit("train.yaml", "model: model.yaml", "model: M.save")
    (line,) = refused("-train", "train.yaml", "-model", "wide.yaml", session="training")
    assert line.startswith("[network-differs] wide.yaml: got a model file with normal.2.outputs 5,")


def test_the_segments_of_a_model_file_are_used(command, place, model):
    place.edit("model.yaml", "inference: 11", "inference: 13")
    result = command("-test", "test.yaml", "-model", "model.yaml", "-load", "M.save")
    assert result.returncode == 0
    result = command("-check", "test.yaml", "-model", "model.yaml", "-load", "M.save")
    assert "13" in result.stdout


# A session that has begun


def test_a_begun_session_does_not_take_another_model(refused, place, trained_here, command):
    """Nor does ``-check`` find nothing wrong with it."""
    place.write("wide.yaml", (place / "model.yaml").read_text().replace("[3, 4]", "[3, 5]"))
    assert command("-newModel", "wide.yaml", "-out", "B.save").returncode == 0
    for option in ("-check", "-train"):
        assert refused(option, "train.yaml", "-model", "B.save", session="training") == [
            "[session-has-begun] train.yaml: got B.save for a session that began with "
            f"HERE/model.yaml and has HERE/{MODELS}/last.save; expected no other model than its "
            "own; fix: leave it out to go on; or give the session another name to start from that "
            "model"
        ]
        (line,) = refused(option, "train.yaml", "-model", "wide.yaml", session="training")
        assert line.startswith("[network-differs] wide.yaml: got a model file with normal.2.")
        (line,) = refused(option, "train.yaml", "-model", "no.save", session="training")
        assert line.startswith("[model-missing] no.save: got no such file; ")


def test_the_model_that_it_began_with_is_named_again_without_harm(command, place, model):
    place.edit("train.yaml", "name: training", "name: tuned")
    start = ("-train", "train.yaml", "-model", "M.save")
    assert command(*start, "-resetOptimizer").returncode == 0
    shutil.move(place / "M.save", place / "N.save")
    moved = command(*start[:-1], "N.save")
    assert (moved.returncode, moved.stderr) == (0, "")
    assert "continuing the session in HERE/runs/tuned\n" in moved.stdout
    assert command(*start).returncode == 0  # removed since, but this is the name it had


def test_it_goes_back_to_an_older_model_with_its_optimiser(
    command, place, trained_here, trained, same_weights
):
    back = command("-train", "train.yaml", "-load", f"{MODELS}/previous.save")
    assert (back.returncode, back.warnings) == (
        0,
        [
            f"WARNING going back to {MODELS}/previous.save, 1 epoch finished; the models and "
            "records after it are set aside in HERE/runs/training/set_aside; the command without "
            "this file goes on from here"
        ],
    )
    assert epochs(place) == [0, 1]
    for file in ("last.save", "best.save"):
        same_weights(place / MODELS / file, trained / MODELS / file)
    same_weights(place / "runs/training/set_aside/last.save", trained / MODELS / "last.save")
    first, other = (
        read_checkpoint(folder / MODELS / "last.save").training["optimizer"]
        for folder in (place, trained)
    )
    assert first["steps"] == other["steps"]
    lines = (place / "runs/training/set_aside/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 2


def test_after_going_back_the_plain_command_goes_on_from_there(command, place, trained_here):
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 1")
    assert command("-train", "train.yaml", "-load", f"{MODELS}/previous.save").returncode == 0
    again = command("-train", "train.yaml")
    assert f"HERE/{MODELS}/last.save; epoch 1 of 1\n" in again.stdout


# DeepMedic's checkpoints


def test_even_kernels_of_old_models_are_imported_trained_and_used(command, place, deepmedic):
    place.edit("M.cfg", "[[3,3,3], [3,3,3]]", "[[2,3,4], [3,2,2]]")
    place.edit("M.cfg", "dropoutRatesFc = [0]", "dropoutRatesFc = [0]\n"
               "layersWithResidualConnNormal = [2]")  # fmt: skip
    write_checkpoint(place / deepmedic, place / "M.cfg", epochs=0)
    assert command("-test", "E.cfg", "-model", "M.cfg").returncode == 0
    assert command("-train", "T.cfg", "-model", "M.cfg").returncode == 0


def test_a_checkpoint_in_the_config_file_is_tested_with_the_given_network(
    command, place, deepmedic
):
    result = command("-test", "E.cfg", "-model", "M.cfg")
    assert result.returncode == 0, result.stderr
    assert "weights: HERE/X.model.ckpt\n" in result.stdout
    assert command("-newModel", "M.cfg", "-pretrained", deepmedic, "-layers", "all",
                   "-out", "I.save").returncode == 0  # fmt: skip
    place.edit("E.cfg", '"old"', '"imported"')
    place.edit("E.cfg", '"X.model.ckpt"', '"I.save"')
    assert command("-test", "E.cfg").returncode == 0
    first, other = (
        place / f"runs/{name}/predictions/d_ProbMapClass1.nii.gz" for name in ("old", "imported")
    )
    assert first.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("name", ["X.model.ckpt", "X.model.ckpt.index"])
def test_load_names_a_checkpoint_as_in_deepmedic(command, place, deepmedic, name):
    place.edit("E.cfg", 'cnnModelFilePath = "X.model.ckpt"\n', "")
    assert command("-test", "E.cfg", "-model", "M.cfg", "-load", name).returncode == 0


def test_a_folder_of_checkpoints_stands_for_the_latest(command, place, deepmedic):
    (place / "saved").mkdir()
    for file in place.path.glob("X.model.ckpt.*"):
        for name in ("X.model.ckpt", "Y.model.ckpt"):
            shutil.copy(file, place / "saved" / file.name.replace("X.model.ckpt", name))
    arguments = ("-check", "E.cfg", "-model", "M.cfg", "-load", "saved")
    (line,) = command(*arguments).errors
    assert line.startswith(
        "ERROR [checkpoint-missing] saved: got a folder with 2 checkpoints and no file "
        "'checkpoint' that names one of them; expected one checkpoint; fix: name one: "
    )
    place.write("saved/checkpoint", 'model_checkpoint_path: "/gone/Y.model.ckpt"\n')
    assert command(*arguments).returncode == 0


def test_a_checkpoint_alone_does_not_know_its_network(refused, deepmedic):
    assert refused("-test", "E.cfg", session="old") == [
        "[model-not-given] HERE/X.model.ckpt: got a checkpoint of DeepMedic alone, which does not "
        "describe its network; expected the model config that it was trained with; fix: add -model "
        "M.cfg; or make a .save of it once: -newModel M.cfg -pretrained HERE/X.model.ckpt -layers "
        "all -out M.save"
    ]


@pytest.mark.parametrize("name", ["Y.model.ckpt", "Y.sav"])
@pytest.mark.parametrize("file", ["T.cfg", "E.cfg"])
def test_a_mistyped_model_is_never_a_random_one(refused, place, deepmedic, name, file):
    place.edit(file, '"X.model.ckpt"', f'"{name}"')
    (line,) = refused(
        "-train" if file == "T.cfg" else "-test", file, "-model", "M.cfg", session="old"
    )
    code = "checkpoint-missing" if name.endswith("ckpt") else "model-missing"
    assert line.startswith(f"[{code}] HERE/{name}")


def test_deepmedics_training_goes_on_with_its_optimiser(command, place, deepmedic):
    write_checkpoint(
        place / deepmedic, place / "M.cfg", epochs=7,
        slots=("accu_grad_squared", "velocities_for_mom"),
    )  # fmt: skip
    place.edit("T.cfg", "numberOfEpochs = 1", "numberOfEpochs = 8\nmomentumValue = 0.5\n"
               "learningRate = 1e-12\nL1_reg = 0\nL2_reg = 0")  # fmt: skip
    result = command("-train", "T.cfg", "-model", "M.cfg", "-load", deepmedic)
    assert result.returncode == 0, result.stderr
    assert (
        "going on from X.model.ckpt after 7 epochs of DeepMedic: mean squares and velocities of "
        "rmsprop for 17 tensors\n"
    ) in result.stdout
    assert "17/17 tensors" not in result.stdout
    assert [line for line in result.warnings if "changed since" in line] == [
        "WARNING learningRate changed since the last epoch: 0.001 → 1e-12",
        "WARNING momentumValue changed since the last epoch: 0.6 → 0.5",
    ]
    lines = (place / "runs/old/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [7]
    learnt = read_checkpoint(place / "runs/old/models/last.save")
    # The last tensor, number 16, after two steps with a gradient of nearly 0: v = 0.5 v, a = 0.9 a.
    state = learnt.training["optimizer"]["state"]["fc.1.bias"]
    assert state["velocity"].numpy() == pytest.approx([8 / 4] * 3, abs=0.01)
    assert state["square"].numpy() == pytest.approx([16 * 0.81] * 3, abs=0.3)
    again = command("-train", "T.cfg", "-model", "M.cfg")
    assert (again.returncode, "continuing the session" in again.stdout) == (0, True)


def test_deepmedics_training_begins_anew_with_resetopt(command, place, deepmedic):
    place.edit("T.cfg", "numberOfEpochs = 1", "numberOfEpochs = 1\nlearningRate = 1e-12\n"
               "L1_reg = 0\nL2_reg = 0")  # fmt: skip
    result = command("-train", "T.cfg", "-model", "M.cfg", "-resetopt")
    assert result.returncode == 0, result.stderr
    assert command("-newModel", "M.cfg", "-pretrained", deepmedic, "-layers", "all",
                   "-out", "I.save").returncode == 0  # fmt: skip
    learnt = read_checkpoint(place / "runs/old/models/last.save").weights
    imported = read_checkpoint(place / "I.save").weights
    assert torch.allclose(learnt["normal.2.conv.weight"], imported["normal.2.conv.weight"])
    again = command("-train", "T.cfg", "-model", "M.cfg")
    assert (again.returncode, "continuing the session" in again.stdout) == (0, True)
    write_checkpoint(place / "Y.model.ckpt", place / "M.cfg", epochs=8)
    (line,) = command("-train", "T.cfg", "-model", "M.cfg", "-load", "Y.model.ckpt").errors
    assert line.startswith(
        "ERROR [session-has-begun] T.cfg: got Y.model.ckpt for a session that began with "
        "HERE/X.model.ckpt and has "
    )


FINE_TUNE = "add -resetOptimizer to fine-tune it: its weights, everything else from the start"


@pytest.mark.parametrize(
    ("slots", "epochs", "rate", "reason"),
    [
        (
            (),
            9,
            None,
            ", without the state of its optimiser; expected -resetOptimizer; fix: " + FINE_TUNE,
        ),
        (
            ("velocities_for_mom",),
            9,
            0.0005,
            ", with a learning rate that its schedule 'auto' has lowered; expected "
            "-resetOptimizer, as plateau follows mean Dice here; fix: " + FINE_TUNE,
        ),
        (
            ("velocities_for_mom",),
            7,
            0.001,
            ", in a session of 7; expected more epochs, which count those of the checkpoint; fix: "
            f"raise numberOfEpochs to train on; or {FINE_TUNE}",
        ),
    ],
)
def test_a_checkpoint_from_which_deepmedics_training_cannot_go_on(
    refused, place, deepmedic, slots, epochs, rate, reason
):
    place.edit("T.cfg", "numberOfEpochs = 1", f"numberOfEpochs = {epochs}")
    write_checkpoint(place / deepmedic, place / "M.cfg", epochs=7, slots=slots, learning_rate=rate)
    assert refused("-train", "T.cfg", "-model", "M.cfg", session="old") == [
        "[start-undecided] HERE/X.model.ckpt: got a checkpoint that DeepMedic has trained for 7 "
        f"epochs{reason}"
    ]


def test_named_tensors_are_refused_with_the_command_that_takes_them(refused, place, model):
    torch.save(dict(read_checkpoint(place / "M.save").weights), place / "W.pt")
    assert refused("-test", "test.yaml", "-load", "W.pt", session="results") == [
        "[model-refused] W.pt: got a file of named tensors, which does not describe its network; "
        "expected a .save; fix: make one of it: -newModel MODEL -pretrained W.pt -layers all -out "
        "M.save"
    ]


def test_a_session_s_folder_stands_for_its_best_model_and_for_load_its_last(
    command, place, trained_here
):
    best = command("-test", "test.yaml", "-model", "runs/training")
    assert "weights: runs/training/models/best.save\n" in best.stdout
    last = command("-test", "test.yaml", "-load", "runs/training")
    assert "weights: runs/training/models/last.save\n" in last.stdout


def test_gpu_means_cuda_as_in_deepmedics_examples(refused):
    (line,) = refused("-train", "train.yaml", "-dev", "gpu")
    assert line == (
        "[device-absent] -dev: got cuda on a machine where torch finds 0 GPUs; expected a GPU that "
        "is there; fix: use -dev cpu, or install a torch build for your GPU and its driver"
    )


@pytest.mark.parametrize("names", ["ours", "DeepMedic's"])
def test_arrays_of_numpy_fill_a_model_as_the_advice_for_theano_says(
    command, place, deepmedic, names, same_weights
):
    fill = ("-newModel", "M.cfg", "-layers", "all", "-pretrained")
    assert command(*fill, deepmedic, "-out", "I.save").returncode == 0
    weights = read_checkpoint(place / "I.save").weights
    arrays = {name: tensor.numpy() for name, tensor in weights.items()}
    if names == "DeepMedic's":
        arrays = read_bundle(place / deepmedic)
    np.savez(place / "W.npz", **{name.replace("net/", ""): a for name, a in arrays.items()})
    result = command(*fill, "W.npz", "-out", "N.save")
    assert result.returncode == 0, result.stderr
    same_weights(place / "I.save", place / "N.save")


# The advice is a command that works


def advised(result, place):
    """The command in the one error of ``result``, with the names of files of this place."""
    (line,) = result.errors
    words = line[line.index("-newModel") :].replace("MODEL", "model.yaml")
    return words.replace("HERE", str(place.path)).split()


def test_the_commands_for_a_checkpoint_and_for_named_tensors_work(command, place, deepmedic):
    alone = command("-test", "E.cfg")
    assert command(*advised(alone, place)).returncode == 0
    assert command("-test", "E.cfg", "-model", "M.save").returncode == 0
    place.edit("model.yaml", "[T1, FLAIR]", "[channel1, channel2]")
    place.edit("data/validation.csv", "channel_T1,channel_FLAIR", "channel_1,channel_2")
    assert command("-newModel", "model.yaml", "-out", "N.save").returncode == 0
    torch.save(dict(read_checkpoint(place / "N.save").weights), place / "W.pt")
    for file in ("M.save", "M.transfer.json"):
        (place / file).unlink()
    named = command("-test", "test.yaml", "-load", "W.pt")
    assert command(*advised(named, place)).returncode == 0
    assert command("-check", "test.yaml", "-load", "M.save").returncode == 0
    assert (
        command("-check", "train.yaml", "-load", "model.yaml")
        .errors[0]
        .endswith("fix: give it as -model model.yaml")
    )
    assert command("-check", "train.yaml", "-model", "model.yaml").errors == []


# What later problems say of .cfg files


def test_problems_of_a_session_name_the_keys_of_its_cfg_file(refused, command, place, deepmedic):
    place.edit(
        "E.cfg", 'cnnModelFilePath = "X.model.ckpt"\n', "saveProbMapsForEachClass = [0,0,0,1]\n"
    )
    assert refused("-test", "E.cfg", session="old") == [
        "[model-not-given] E.cfg: got no model; expected a .save or a model file; fix: add -model "
        "FILE, or cnnModelFilePath = 'FILE' to the config file"
    ]
    (line,) = refused("-test", "E.cfg", "-model", "M.cfg", "-load", deepmedic, session="old")
    assert line.startswith("[class-unknown] E.cfg: got 3 in saveProbMapsForEachClass; ")
