"""Paths on the command line that cannot be: refused with the true reason, never waited for."""

import os

import pytest
import torch

LONG = "x" * 300
TOO_LONG = (
    "[path-unusable] got a path of {} bytes, with a name of {}; expected a path that a disk can "
    "hold, mostly with names of up to 255 bytes; fix: correct the path"
)
UNREADABLE = "expected a file that can be read; fix: give a file that this user may read"


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        pytest.param(("-train", "train.yaml", "-model", f"{LONG}.save"), 305, id="train -model"),
        pytest.param(("-test", "test.yaml", "-model", LONG), 300, id="test -model"),
        pytest.param(("-show", LONG), 300, id="show"),
        pytest.param(("-newModel", "model.yaml", "-pretrained", LONG), 300, id="pretrained"),
        pytest.param(("-newModel", "model.yaml", "-out", LONG), 300, id="out"),
        pytest.param(("-compare", LONG), 300, id="compare"),
    ],
)
def test_a_name_that_no_disk_holds_is_refused_as_such(refused, arguments, size):
    assert refused(*arguments) == [TOO_LONG.format(size, size)]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        pytest.param("pipe.save", ("-test", "test.yaml", "-model", "pipe.save"), id="model"),
        pytest.param(
            "pipe.save", ("-newModel", "model.yaml", "-pretrained", "pipe.save"), id="old"
        ),
        pytest.param("pipe.pt", ("-show", "pipe.pt"), id="state dict"),
        pytest.param("pipe.safetensors", ("-show", "pipe.safetensors"), id="safetensors"),
        pytest.param("pipe.onnx", ("-show", "pipe.onnx"), id="ONNX"),
        pytest.param("pipe.index", ("-show", "pipe.index"), id="TensorFlow"),
    ],
)
def test_a_pipe_in_place_of_a_model_is_not_waited_for(refused, place, name, arguments):
    os.mkfifo(place / name)
    (line,) = refused_lines(refused, arguments, place / name)
    assert line == f"[file-unreadable] {name}: got a pipe, socket or device; {UNREADABLE}"


def refused_lines(refused, arguments, pipe):
    """The lines; the pipe is taken away before the files of the place are compared."""
    try:
        return refused(*arguments, session="results")
    finally:
        pipe.unlink(missing_ok=True)


def test_a_model_that_this_user_may_not_read_is_not_called_damaged(
    command, place, model, monkeypatch
):
    opened = type(place.path).open

    def denied(path, *how, **more):
        if path.name == model:
            raise PermissionError(13, "Permission denied")
        return opened(path, *how, **more)

    monkeypatch.setattr(type(place.path), "open", denied)
    result = command("-show", model)
    assert (result.returncode, result.errors) == (
        2,
        [f"ERROR [file-unreadable] M.save: got 'Permission denied' from the system; {UNREADABLE}"],
    )


@pytest.mark.parametrize("home", ["~", "$HOME", "${HOME}"])
def test_home_means_what_it_means_in_a_shell(command, place, monkeypatch, home):
    monkeypatch.setenv("HOME", str(place / "anna"))
    assert command("-newModel", "model.yaml", "-out", f"{home}/A.save").returncode == 0
    place.edit("model.yaml", "output: runs", f"output: {home}/runs")
    assert command("-newModel", "model.yaml").returncode == 0
    new = {str(p.relative_to(place.path)) for p in place.path.rglob("*.save")}
    assert new == {"anna/A.save", "anna/runs/models/small.save"}
    assert {path.name for path in place.path.iterdir()} & {"~", "$HOME", "${HOME}"} == set()


def test_a_variable_that_is_not_set_is_refused(refused, place, monkeypatch):
    monkeypatch.delenv("NOWHERE", raising=False)
    fix = "fix: set the variable, or write the whole path"
    assert refused("-newModel", "model.yaml", "-out", "$NOWHERE/A.save") == [
        "[path-unusable] got $NOWHERE in '$NOWHERE/A.save'; expected variables that are set; " + fix
    ]
    place.edit("model.yaml", "output: runs", "output: $NOWHERE/runs")
    assert refused("-newModel", "model.yaml") == [
        "[config-path] model.yaml:2 output: got $NOWHERE in '$NOWHERE/runs'; expected variables "
        "that are set; " + fix
    ]


STATE = (
    "expected optimiser and progress as deepseg writes them; fix: remove the file, and the "
    "session goes on from the one before it; or fine-tune its weights with -resetOptimizer in a "
    "session of another name"
)


def without(part):
    return lambda training: training.pop(part)


def other_shapes(training):
    state = training["optimizer"]["state"]["normal.1.conv.weight"]
    state["square"] = state["square"][:1]


def without_kind(training):
    del training["optimizer"]["state"]["normal.1.conv.weight"]["velocity"]


@pytest.mark.parametrize(
    ("harm", "got"),
    [
        pytest.param(without("optimizer"), "no 'optimizer'", id="without its optimiser"),
        pytest.param(
            other_shapes,
            "square of normal.1.conv.weight of shape (1, 2, 3, 3, 3)",
            id="an optimiser of another network",
        ),
        pytest.param(
            without_kind,
            "an 'optimizer' without square, velocity and steps of normal.1.conv.weight",
            id="half an optimiser",
        ),
        pytest.param(
            lambda training: training.update(scores=5), "'scores' of another type", id="scores"
        ),
    ],
)
def test_a_model_without_a_whole_training_state_goes_on_nowhere_but_still_predicts(
    refused, command, place, trained_here, harm, got
):
    last = place / "runs/training/models/last.save"
    content = torch.load(last, weights_only=True)
    harm(content["training"])
    torch.save(content, last)
    place.edit("train.yaml", "\nepochs: 2", "\nepochs: 3")
    assert refused("-train", "train.yaml", session="training") == [
        f"[training-state] HERE/runs/training/models/last.save: got a training state with {got}; "
        f"{STATE}"
    ]
    assert command("-show", str(last)).returncode == 0
    assert command("-test", "test.yaml", "-model", str(last)).returncode == 0
