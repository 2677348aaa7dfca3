"""Words that users read: proposals that make sense, verdicts that fit what was said before."""

import pytest

from deepseg.cli.arguments import SYNONYMS, parsed
from deepseg.errors import DeepsegError

ABSENT = "no voxel of class 2 (core) in any of the "


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("-predict", "-test"),
        ("--predict", "-test"),
        ("-Predict=x.yaml", "-test"),
        ("-fit", "-train"),
        ("-newmodel", "-newModel"),
        ("-gpu", "-dev"),
        ("-resetopt", None),
        ("-weights", "-model"),
        ("-xyzzy", None),
    ],
)
def test_an_option_of_another_program_leads_to_ours(typed, meant):
    with pytest.raises(DeepsegError) as refusal:
        parsed([typed, "-quiet"])
    (problem,) = refusal.value.problems
    assert problem.fix.partition("; did you mean ")[2] == ("" if meant is None else f"'{meant}'?")


def test_every_proposal_is_an_option(command):
    help_text = command("-help").stdout
    assert [option for option in SYNONYMS.values() if f" {option}" not in help_text] == []
    assert all(word == "".join(filter(str.isalnum, word)).lower() for word in SYNONYMS)


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("optimiser: {name: adam, lr: 0.1}", "correct or remove it; did you mean 'learning_rate'?"),
        ("lr: 0.1", "correct or remove it; did you mean 'optimiser.learning_rate'?"),
        ("n_epochs: 3", "correct or remove it; did you mean 'epochs'?"),
        ("epoch: 3", "correct or remove it; did you mean 'epochs'?"),
        ("xyzzy: 3", "correct or remove it"),
    ],
)
def test_a_key_of_another_program_leads_to_ours(refused, place, text, fix):
    place.write("train.yaml", f"{(place / 'train.yaml').read_text()}{text}\n")
    (line,) = refused("-check", "train.yaml", "-model", "model.yaml")
    assert line.startswith("[config-unknown-key] train.yaml:")
    assert line.partition("; fix: ")[2] == fix


def test_a_key_that_no_optimiser_has_is_told_although_none_is_named(refused, place):
    place.write("train.yaml", (place / "train.yaml").read_text() + "optimiser: {lr: 0.1}\n")
    lines = refused("-check", "train.yaml", "-model", "model.yaml")
    assert [line.partition("] ")[0] for line in lines] == [
        "[config-missing-key",
        "[config-unknown-key",
    ]
    assert lines[1].endswith("; did you mean 'learning_rate'?")


def test_a_check_with_warnings_does_not_say_that_nothing_is_wrong(command, place):
    assert command("-check", "train.yaml").stdout.splitlines()[-1] == "train.yaml: nothing wrong"
    labels = place.array("a/labels.nii.gz")
    place.store("a/labels.nii.gz", labels * 0)
    result = command("-check", "train.yaml")
    assert (result.returncode, len(result.warnings)) == (0, 1)
    assert result.stdout.splitlines()[-1] == "train.yaml: 1 warning, nothing that stops it"
    place.store("b/labels.nii.gz", place.array("b/labels.nii.gz").clip(0, 1))
    place.edit("train.yaml", "data/train.csv", "data/train.csv\n    allow_missing_classes: true")
    result = command("-check", "train.yaml")
    assert (result.returncode, len(result.warnings)) == (0, 2)
    assert result.stdout.splitlines()[-1] == "train.yaml: 2 warnings, nothing that stops it"


def test_a_class_that_is_missing_is_told_with_the_set_that_lacks_it(command, place):
    name = "c/labels.nii.gz"
    place.store(name, place.array(name).clip(0, 1))
    result = command("-check", "train.yaml")
    assert (result.returncode, result.warnings) == (0, [f"WARNING {ABSENT}validation cases"])


def test_labels_of_more_classes_than_the_model_has_lead_to_more_classes_first(command, place):
    place.edit("model.yaml", "[background, rim, core]", "[background, lesion]")
    result = command("-check", "train.yaml")
    assert result.returncode == 2
    assert {line.partition("; fix: ")[2] for line in result.errors} == {
        "give the model 3 classes, or set 'label_map: {2: 1}' as it fits your data"
    }


@pytest.mark.parametrize(("until", "warned"), [(1, False), (2, True), (50, True)])
def test_layers_that_stay_frozen_to_the_end_are_told(command, place, until, warned):
    text = f"freeze: {{layers: [normal.1], until_epoch: {until}}}\n"
    place.write("train.yaml", (place / "train.yaml").read_text() + text)
    result = command("-check", "train.yaml")
    assert result.returncode == 0
    warning = (
        f"WARNING freeze.until_epoch {until} is not before the last of 2 epochs: these layers "
        "stay frozen to the end; lower it, or leave it out"
    )
    assert result.warnings == ([warning] if warned else [])


def test_a_kind_of_file_is_asked_for_without_files_that_are_not_installed(command, place):
    place.write("odd.yaml", "colour: red\n")
    (line,) = command("-check", "odd.yaml").errors
    assert line == (
        "ERROR [config-kind] odd.yaml: got none of the keys that a config file has; expected a "
        "model file (normal, segments), a train file (training) or a test file (cases); fix: "
        "begin with one of these keys"
    )
