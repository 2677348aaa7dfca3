"""Faults in config files: all found at once, each with its line, before anything is written."""

import re

import pytest

MODEL_KEYS = (
    "name, output, channels, classes, normal, subsampled, imported, unet, fc, segments, windows, "
    "activation, batch_norm, initialisation, context_alignment"
)
TRAIN_KEYS = (
    "name, output, model, seed, training, validation, preparation, accept, folds, epochs, "
    "subepochs, loss, optimiser, schedule, steps, precision, freeze, checkpoints, early_stopping, "
    "stop_at, workers, deterministic, cache, tensorboard, report"
)


@pytest.mark.parametrize("text", ["", "# nothing\n# at all\n"], ids=["no line", "comments only"])
def test_an_empty_file_names_the_first_key(refused, place, text):
    place.write("train.yaml", text)
    assert refused("-train", "train.yaml") == [
        "[config-empty] train.yaml: got a file without keys; expected the keys output, training; "
        "fix: begin with the key 'output', or give the path of another file"
    ]


def test_all_problems_of_a_file_come_at_once_in_its_order(refused, place):
    place.edit("train.yaml", "batch_size: 4", "batch_size: 0")
    place.edit("train.yaml", "\nepochs: 2", "\nepocs: 2")
    place.edit("train.yaml", "workers: 0", "workers: many")
    assert refused("-train", "train.yaml") == [
        "[config-value] train.yaml:8 training.batch_size: got 0; expected a whole number from 1 "
        "to 1000000; fix: write a larger number",
        "[config-unknown-key] train.yaml:16 epocs: got the unknown key 'epocs'; expected one of "
        f"the keys {TRAIN_KEYS}; fix: correct or remove it; did you mean 'epochs'?",
        "[config-value] train.yaml:18 workers: got 'many'; expected a whole number from 0 to 64, "
        "or the word auto; fix: write one of these",
    ]


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "1e9", "1000000001", '"10"', "", "[4]"])
def test_a_batch_size_is_a_sensible_whole_number(refused, place, value):
    place.edit("train.yaml", "batch_size: 4", f"batch_size: {value}")
    (problem,) = refused("-train", "train.yaml")
    assert re.fullmatch(
        r"\[config-value\] train\.yaml:8 training\.batch_size: got .+; "
        r"expected a whole number from 1 to 1000000; fix: .+",
        problem,
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        pytest.param(
            "train.yaml",
            "workers: 0\n",
            "workers: 0\nepochs: 3\n",
            "[config-duplicate-key] train.yaml:19 epochs: got 'epochs' on line 16 and again on "
            "line 19; expected every key once; fix: remove one of the two",
            id="a key twice",
        ),
        pytest.param(
            "train.yaml",
            "  batch_size",
            "\tbatch_size",
            "[config-syntax] train.yaml:8 column 1: got a tab; expected spaces; "
            "fix: replace the tab by spaces",
            id="a tab",
        ),
        pytest.param(
            "model.yaml",
            "[T1, FLAIR]",
            "[T1, FLAIR",
            "[config-syntax] model.yaml:4 column 8: got ':'; expected ',' or ']' for the '[' of "
            "line 3 column 11; fix: correct this line or the one before",
            id="an open bracket",
        ),
        pytest.param(
            "train.yaml",
            "\nepochs: 2",
            "\nepochs: 2\0",
            "[config-syntax] train.yaml:16 column 10: got the control character U+0000; expected "
            "readable text; fix: remove this character, or give the file that was meant",
            id="a NUL",
        ),
        pytest.param(
            "train.yaml",
            "\nepochs: 2",
            '\nepochs: !!python/object/apply:os.system ["touch PWNED"]',
            "[config-not-data] train.yaml:16 epochs: got the tag "
            "'!!python/object/apply:os.system'; expected plain values: text, numbers, true, "
            "false, lists and blocks; fix: remove the tag; config files are read, never run",
            id="a call",
        ),
        pytest.param(
            "train.yaml",
            "\nepochs: 2",
            "\nepochs: 010",
            "[config-ambiguous-number] train.yaml:16 epochs: got 010, which some programs read "
            "as an octal number; expected a number without leading zeros; fix: write 10, 0o10 "
            "for octal digits, or '010' with quotes for text",
            id="an octal number",
        ),
        pytest.param(
            "train.yaml",
            "    table: data/train.csv",
            "    table: data/train.csv\n    channels: [data/T1.txt, data/FLAIR.txt]",
            "[cases-source] train.yaml:5 training.cases: got table and channels; expected exactly "
            "one of table, dataset, bids, channels; fix: keep one of the four",
            id="two keys that exclude each other",
        ),
        pytest.param(
            "model.yaml",
            "train: 9",
            "train: [9, 4, 9]",
            "[segment-too-small] model.yaml: got segments.train of 9 x 4 x 9 voxels; expected at "
            "least 5 x 5 x 5, the receptive field; fix: enlarge the segment along Y or use fewer "
            "or smaller kernels",
            id="a segment below the receptive field",
        ),
        pytest.param(
            "model.yaml",
            "classes: [background, rim, core]",
            "classes: [background, rim, rim]",
            "[name-twice] model.yaml:4 classes: got class rim more than once; expected a "
            "different name for every class; fix: rename one of them",
            id="two classes of one name",
        ),
        pytest.param(
            "model.yaml",
            "subsampled:",
            "subsample:",
            "[config-unknown-key] model.yaml:7 subsample: got the unknown key 'subsample'; "
            f"expected one of the keys {MODEL_KEYS}; fix: correct or remove it; did you mean "
            "'subsampled'?",
            id="a misspelt block",
        ),
    ],
)
def test_a_fault_in_a_file_is_explained(refused, place, file, old, new, problem):
    place.edit(file, old, new)
    command = "-newModel" if file == "model.yaml" else "-train"
    assert refused(command, file) == [problem]
    assert refused("-check", file) == [problem]
    assert not (place / "PWNED").exists()


def test_latin_1_is_refused_at_its_line_and_column(refused, place):
    place.damage("train.yaml", lambda text: text.replace(b"name: training", b"name: \xfcbung"))
    assert refused("-train", "train.yaml") == [
        "[config-syntax] train.yaml:1 column 7: got the byte 0xfc; expected text in UTF-8; "
        "fix: save the file with the encoding UTF-8"
    ]


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param("x: " + "[" * 10_000 + "]" * 10_000 + "\n", id="nesting"),
        pytest.param(
            "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n"
            + "".join(
                f"{new}: &{new} [{', '.join(9 * [f'*{old}'])}]\n"
                for old, new in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            id="aliases",
        ),
    ],
)
def test_a_file_that_unfolds_without_end_is_refused(refused, place, bomb):
    place.write("train.yaml", bomb)
    (problem,) = refused("-train", "train.yaml")
    assert problem.startswith("[config-too-large] train.yaml:")


def test_python_in_a_cfg_is_never_run(refused, place):
    place.write("model.cfg", 'import os; os.system("touch PWNED")\nnumberOfOutputClasses = 3\n')
    problems = refused("-newModel", "model.cfg")
    assert problems[0] == (
        "[config-not-data] model.cfg:1: got 'import os'; expected 'key = value' with plain "
        "values; fix: write the value itself; config files are read, never run"
    )
    assert not (place / "PWNED").exists()


def test_a_call_in_a_value_of_a_cfg_is_never_run(refused, place):
    place.write("model.cfg", 'numberOfOutputClasses = __import__("os").system("touch PWNED")\n')
    problems = refused("-newModel", "model.cfg")
    assert problems[0].startswith("[config-not-data] model.cfg:1")
    assert not (place / "PWNED").exists()


@pytest.mark.parametrize(
    ("addition", "problems"),
    [
        pytest.param(
            "loss: {class_weights: {type: given, weights: [1, 2]}}\n",
            [
                "[list-length] train.yaml: got 2 entries in loss.class_weights.weights; expected "
                "3, one per class: background, rim, core; fix: give one entry per class of the "
                "model, the background first"
            ],
            id="weights for fewer classes",
        ),
        pytest.param(
            "freeze: {layers: [norml.1]}\n",
            [
                "[layer-unknown] train.yaml: got 'norml.1'; expected layers of normal.1-2, "
                "sub1.1-2, fc.1; fix: name layers as pathway.number or pathway.first-last; "
                "did you mean 'normal.1'?"
            ],
            id="a layer that is not there",
        ),
        pytest.param(
            "preparation: {z_score: {channels: [T1, Flair]}}\n",
            [
                "[channel-unknown] train.yaml: got channel 'Flair' in "
                "preparation.z_score.channels; expected channels of the model: T1, FLAIR; "
                "fix: correct the name; did you mean 'FLAIR'?"
            ],
            id="a channel that is not there",
        ),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(refused, place, addition, problems):
    place.write("train.yaml", (place / "train.yaml").read_text() + addition)
    assert refused("-train", "train.yaml", session="training") == problems
    assert refused("-check", "train.yaml") == problems


def test_wishes_for_validation_are_judged_before_the_first_epoch(refused, place):
    place.edit(
        "train.yaml", "    every: 2", "    every: 2\n    save: {feature_maps: {sub2.1: all}}"
    )
    problem = (
        "[layer-unknown] train.yaml: got 'sub2.1'; expected layers of normal.1-2, sub1.1-2, "
        "fc.1; fix: name layers as pathway.number or pathway.first-last; did you mean 'sub1.1'?"
    )
    assert refused("-train", "train.yaml", session="training") == [problem]
    assert refused("-check", "train.yaml") == [problem]


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        pytest.param(
            "save:",
            "tile: [9, 9, 3]\nsave:",
            "[segment-too-small] test.yaml: got tile of 9 x 9 x 3 voxels; expected at least "
            "5 x 5 x 5, the receptive field; fix: enlarge the tile, or leave it out",
            id="a tile below the receptive field",
        ),
        pytest.param(
            "pictures: false",
            "probabilities: [crust]",
            "[class-unknown] test.yaml: got 'crust' in save.probabilities; expected names of "
            "classes (background, rim, core) or their labels; fix: name classes of the model",
            id="a class that is not there",
        ),
        pytest.param(
            "pictures: false",
            "feature_maps: {sub2.1: all}",
            "[layer-unknown] test.yaml: got 'sub2.1'; expected layers of normal.1-2, sub1.1-2, "
            "fc.1; fix: name layers as pathway.number or pathway.first-last; did you mean "
            "'sub1.1'?",
            id="a layer that is not there",
        ),
        pytest.param(
            "save:",
            "groups: {whole: [1, 3]}\nsave:",
            "[class-unknown] test.yaml: got labels [1, 3] in group 'whole'; expected labels from "
            "1 to 2; fix: name labels of the model",
            id="a label that is not there",
        ),
    ],
)
def test_wishes_that_the_model_cannot_fulfil_are_refused(refused, place, model, old, new, problem):
    place.edit("test.yaml", old, new)
    assert refused("-test", "test.yaml", "-model", model, session="results") == [problem]
    assert refused("-check", "test.yaml", "-model", model) == [problem]
