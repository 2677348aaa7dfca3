"""Faults in tables and list files, with the line of each."""

import os
import shutil

import pytest

IMAGE = "expected an image file; fix:"
HEADER = "case,channel_T1,channel_FLAIR,labels,roi\n"
A = "a,a/T1.nii.gz,a/FLAIR.nii.gz,a/labels.nii.gz,a/roi.nii.gz\n"
B = "b,b/T1.nii.gz,b/FLAIR.nii.gz,b/labels.nii.gz,b/roi.nii.gz\n"


@pytest.fixture
def lists(place):
    """Give the training cases in list files instead of a table."""
    place.edit(
        "train.yaml",
        "    table: data/train.csv",
        "    channels: {FLAIR: data/FLAIR.txt, T1: data/T1.txt}\n"
        "    labels: data/labels.txt\n"
        "    roi: data/roi.txt",
    )


@pytest.mark.parametrize(
    ("table", "problems"),
    [
        pytest.param(
            HEADER + A + B.replace("b/T1", "b/T2"),
            [
                "[file-missing] HERE/data/train.csv:3 channel_T1 b/T2.nii.gz: got no such file; "
                f"{IMAGE} correct the path; did you mean 'T1.nii.gz'?"
            ],
            id="a missing file",
        ),
        pytest.param(
            HEADER
            + "# all cases\n\n"
            + A.replace("a/FLAIR", "z/FLAIR")
            + B.replace("roi.", "rio."),
            [
                "[file-missing] HERE/data/train.csv:4 channel_FLAIR z/FLAIR.nii.gz: got no folder "
                f"z in HERE/data; {IMAGE} correct the path",
                "[file-missing] HERE/data/train.csv:5 roi b/rio.nii.gz: got no such file; "
                f"{IMAGE} correct the path; did you mean 'roi.nii.gz'?",
            ],
            id="two missing files below a comment",
        ),
        pytest.param(
            HEADER + A + B.replace("b/roi", "b,roi"),
            [
                "[table-cells] HERE/data/train.csv:3: got 6 cells; expected 5, one per column; "
                "fix: leave a cell empty where there is no file, and put quotes around a path "
                "that holds the separator"
            ],
            id="a comma too many",
        ),
        pytest.param(
            HEADER + A + B + A,
            [
                "[case-name-twice] HERE/data/train.csv:4 case: got the name 'a', as in "
                "HERE/data/train.csv:2 case; expected a name of its own; fix: rename one of them"
            ],
            id="a name twice",
        ),
        pytest.param(
            HEADER.replace("labels", "lables") + A,
            [
                "[table-column] HERE/data/train.csv:1: got the column 'lables'; expected case, "
                "channel_NAME, labels, roi, split, patient, weights_1, weights_2, …; fix: rename "
                "or remove it; did you mean 'labels'?"
            ],
            id="a misspelt column",
        ),
        pytest.param(
            HEADER.replace("FLAIR", "T2") + A,
            [
                "[channel-unknown] HERE/data/train.csv:1: got channel 'T2'; expected the channels "
                "of the model: T1, FLAIR; fix: rename or remove it",
                "[channel-missing] HERE/data/train.csv:1: got no channel 'FLAIR'; expected the "
                "channels of the model: T1, FLAIR; fix: add this channel",
            ],
            id="a channel of another name",
        ),
        pytest.param(
            HEADER + A + B.replace("b/labels.nii.gz", "-"),
            [
                "[labels-missing] HERE/data/train.csv:3: got no labels of case 'b'; expected "
                "labels for every case; fix: give the label file, or take the case out"
            ],
            id="a case without labels",
        ),
        pytest.param(
            HEADER + "# none\n",
            [
                "[no-cases] HERE/data/train.csv: got no case; expected at least one case; "
                "fix: list the images of at least one case; lines that begin with '#' do not count"
            ],
            id="no case",
        ),
    ],
)
def test_a_fault_in_a_table_is_explained(refused, place, table, problems):
    place.write("data/train.csv", table)
    assert refused("-train", "train.yaml", session="training") == problems
    assert refused("-check", "train.yaml") == problems


def test_problems_of_training_and_validation_cases_come_together(refused, place):
    place.edit("data/train.csv", "b/T1", "b/T0")
    place.edit("data/validation.csv", "c/T1", "c/T0")
    assert [line.split(": ")[0] for line in refused("-check", "train.yaml")] == [
        "[file-missing] HERE/data/train.csv:3 channel_T1 b/T0.nii.gz",
        "[file-missing] HERE/data/validation.csv:2 channel_T1 c/T0.nii.gz",
    ]


def test_a_missing_file_does_not_hide_a_damaged_one(refused, place):
    place.edit("data/train.csv", "a/T1", "a/T0")
    place.damage("data/b/FLAIR.nii.gz", lambda content: content[:-8])
    assert [line.split(": ")[0] for line in refused("-check", "train.yaml")] == [
        "[file-missing] HERE/data/train.csv:2 channel_T1 a/T0.nii.gz",
        "[image-truncated] HERE/data/b/FLAIR.nii.gz",
    ]


def test_a_list_one_line_shorter_names_the_first_case_without_one(refused, place, lists):
    place.write("data/FLAIR.txt", "a/FLAIR.nii.gz\n")
    assert refused("-train", "train.yaml", session="training") == [
        "[list-lengths] HERE/data/FLAIR.txt: got 1 in FLAIR.txt, 2 in T1.txt, 2 in labels.txt, 2 "
        "in roi.txt; expected an entry for every case in every list; fix: add the line for "
        "HERE/data/T1.txt:2 b/T1.nii.gz, the first case without one; '-' stands for no file"
    ]


def test_a_missing_file_of_a_list_has_its_line_number(refused, place, lists):
    place.write("data/roi.txt", "# masks\n\na/roi.nii.gz\nb/rio.nii.gz\n")
    assert refused("-train", "train.yaml", session="training") == [
        f"[file-missing] HERE/data/roi.txt:4 b/rio.nii.gz: got no such file; {IMAGE} correct the "
        "path; did you mean 'roi.nii.gz'?"
    ]


def test_lists_as_people_write_them_give_the_same_model(command, place, lists, same_weights):
    clean = command("-train", "train.yaml")
    (place / "runs/training").rename(place / "clean")
    messy = b"\xef\xbb\xbf# images\r\n\r\n  a/FLAIR.nii.gz  \r\n'b/FLAIR.nii.gz'"
    (place / "data/FLAIR.txt").write_bytes(messy)
    again = command("-train", "train.yaml")
    assert (clean.returncode, again.returncode) == (0, 0)
    assert (clean.stderr, again.stderr) == ("", "")
    same_weights(place / "clean/models/last.save", place / "runs/training/models/last.save")


def test_the_same_images_twice_are_only_a_warning(command, place):
    place.write("data/train.csv", HEADER + A + A.replace("a", "e", 1))
    result = command("-check", "train.yaml")
    assert result.returncode == 0
    assert result.stderr == (
        "WARNING HERE/data/train.csv:3: e has the same images as a (HERE/data/train.csv:2)\n"
    )


def _loop(path):
    path.symlink_to(path.name)


def _dangling(path):
    path.symlink_to("elsewhere.nii.gz")


@pytest.mark.parametrize(
    ("make", "place_and_got"),
    [
        pytest.param(
            _loop,
            "[file-unreadable] HERE/data/train.csv:3 channel_T1 b/T1.nii.gz: "
            "got Too many levels of symbolic links",
            id="a link to itself",
        ),
        pytest.param(
            _dangling,
            "[file-missing] HERE/data/train.csv:3 channel_T1 b/T1.nii.gz: "
            "got a link to elsewhere.nii.gz, which does not exist",
            id="a link to nothing",
        ),
        pytest.param(
            os.mkfifo,
            "[file-unreadable] HERE/data/b/T1.nii.gz: got a pipe, socket or device",
            id="a pipe",
        ),
        pytest.param(
            os.mkdir,
            "[dicom-series] HERE/data/b/T1.nii.gz: got a folder with no DICOM series",
            id="an empty folder",
        ),
    ],
)
def test_what_is_no_file_is_refused_without_waiting_for_it(refused, place, make, place_and_got):
    (place / "data/b/T1.nii.gz").unlink()
    make(place / "data/b/T1.nii.gz")
    (problem,) = refused("-train", "train.yaml", session="training")
    assert problem.split("; expected")[0] == place_and_got


def test_paths_count_from_the_file_they_stand_in(command, place, monkeypatch):
    monkeypatch.chdir(place / "data/a")
    result = command("-check", "../../train.yaml")
    assert (result.returncode, result.stderr) == (0, "")


def test_an_empty_line_in_one_of_the_lists_is_refused(refused, place, lists):
    """Case b would be learnt from the images of one patient and the labels of another."""
    place.write("data/FLAIR.txt", "a/FLAIR.nii.gz\nb/FLAIR.nii.gz\nc/FLAIR.nii.gz\n")
    place.write("data/T1.txt", "a/T1.nii.gz\nb/T1.nii.gz\nc/T1.nii.gz\n")
    place.write("data/roi.txt", "a/roi.nii.gz\nb/roi.nii.gz\nc/roi.nii.gz\n")
    place.write("data/labels.txt", "a/labels.nii.gz\n\nc/labels.nii.gz\n-\n")
    assert refused("-train", "train.yaml", session="training") == [
        "[list-empty-line] HERE/data/labels.txt:2: got an empty line between two cases, and none "
        "at this place in FLAIR.txt, T1.txt, roi.txt; expected a line for every case in every "
        "list; fix: write '-' if the case has no such file, or else remove the empty line"
    ]


def test_a_model_without_names_of_channels_remembers_the_columns_that_it_has_learnt_from(
    command, place
):
    place.edit("model.yaml", "[T1, FLAIR]", "[channel1, channel2]")
    header = "case,channel_T1,channel_FLAIR,labels,roi"
    place.edit("data/train.csv", header, header.replace("FLAIR", "T2"))
    place.edit("data/validation.csv", header, header.replace("FLAIR", "T3"))
    place.edit("data/test.csv", header, header.replace("FLAIR", "T2"))
    line = (
        "the channels of the model have no names, so columns count in their order: channel1 is "
        "the column channel_T1, channel2 channel_"
    )
    trained = command("-train", "train.yaml")
    assert (trained.returncode, trained.warnings) == (
        0,
        [
            f"WARNING HERE/data/train.csv:1: {line}T2",
            f"WARNING HERE/data/validation.csv:1: {line}T3",
        ],
    )
    last = "runs/training/models/last.save"
    assert "columns of channels" in command("-show", last).stdout
    assert command("-test", "test.yaml", "-model", last).warnings == []
    segmentation = (place / "runs/results/predictions/d_Segm.nii.gz").read_bytes()
    place.write("data/test.csv", "case,channel_T2,channel_T1,labels,roi\n"
                "d,d/FLAIR.nii.gz,d/T1.nii.gz,d/labels.nii.gz,d/roi.nii.gz\n")  # fmt: skip
    place.edit("test.yaml", "name: results", "name: again")
    assert command("-test", "test.yaml", "-model", last).warnings == []
    assert (place / "runs/again/predictions/d_Segm.nii.gz").read_bytes() == segmentation
    assert (place / "runs/again/cases.csv").is_file()


def test_a_case_with_a_number_sign_before_its_name_is_not_lost_in_silence(command, place):
    place.write("data/train.csv", HEADER + A + B.replace("b,", "#12,", 1))
    result = command("-check", "train.yaml")
    assert (result.returncode, result.warnings[0]) == (
        0,
        "WARNING HERE/data/train.csv:3: a row that begins with '#' does not count, the first "
        "'#12'; a name that begins with '#' needs quotes around it",
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param(
            "\u00e4" * 101,
            "got the name '{name}' of 202 bytes; expected at most 200; fix: shorten it; a letter "
            "beyond a to z takes 2 to 4 bytes",
            id="letters of two bytes",
        ),
        pytest.param(
            "n" * 200,
            "got the name '{name}', with which that of a result has 263 bytes; expected at most "
            "255, which is what file systems hold; fix: shorten the name of the case, or the "
            "suffixes under save",
            id="with a long suffix",
        ),
    ],
)
def test_a_name_that_no_file_can_have_is_refused_before_anything_is_computed(
    refused, place, model, name, problem
):
    place.edit("data/test.csv", "d,d/T1", f"{name},d/T1")
    place.edit("test.yaml", "save:\n", f"save:\n  segmentation_suffix: {'s' * 55}\n")
    expected = problem.format(name=name)
    for command in ("-test", "-check"):
        (line,) = refused(command, "test.yaml", "-model", model, session="results")
        assert line.startswith("[case-name] HERE/data/test.csv:2")
        assert line.endswith(expected)


def test_the_longest_names_that_are_allowed_are_written(command, place, model):
    name = "n" * 200
    place.edit("data/test.csv", "d,d/T1", f"{name},d/T1")
    place.edit("test.yaml", "save:\n", f"save:\n  segmentation_suffix: {'s' * 47}\n")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    (file,) = (place / "runs/results/predictions").iterdir()
    assert (file.name, len(file.name)) == (f"{name}_{'s' * 47}.nii.gz", 255)


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        (
            "  segmentation_suffix: pred1\n  probability_suffix: pred\n  probabilities: [1]\n",
            "segmentation_suffix 'pred1', with which a file is called as that of a probability map",
        ),
        (
            "  segmentation_suffix: Entropy\n  uncertainty: [entropy]\n",
            "segmentation_suffix 'Entropy', with which a file is called as that of the map of "
            "entropy",
        ),
        (
            "  segmentation_suffix: normal.1_fm0\n  feature_maps: {normal.1: all}\n",
            "segmentation_suffix 'normal.1_fm0', with which a file is called as that of a feature "
            "map",
        ),
        (
            "  probability_suffix: normal.1_fm\n  probabilities: true\n"
            "  feature_maps: {normal.1: all}\n",
            "probability_suffix 'normal.1_fm', with which a file is called as that of a feature "
            "map",
        ),
    ],
)
def test_results_that_would_be_written_over_each_other_are_refused(
    refused, place, model, settings, got
):
    place.edit("test.yaml", "save:\n", f"save:\n{settings}")
    (line,) = refused("-test", "test.yaml", "-model", model)
    assert line.startswith("[name-twice] test.yaml:5 save: ")
    assert line.split(": got ")[1] == (
        f"{got}; expected an ending of its own for every result; fix: choose another "
        f"{got.split()[0]}"
    )


def test_suffixes_that_only_look_alike_are_used(command, place, model):
    place.edit(
        "test.yaml",
        "save:\n",
        "save:\n  segmentation_suffix: pred1\n  probability_suffix: pred\n"
        "  probabilities: [0, 2]\n",
    )
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    names = sorted(path.name for path in (place / "runs/results/predictions").iterdir())
    assert names == [f"d_pred{i}.nii.gz" for i in range(3)]


def test_a_result_that_has_the_name_of_one_of_another_case_is_refused(refused, place, model):
    row = "{},d/T1.nii.gz,d/FLAIR.nii.gz,d/labels.nii.gz,d/roi.nii.gz\n"
    place.write("data/test.csv", HEADER + row.format("d") + row.format("d_a"))
    place.edit(
        "test.yaml",
        "save:\n",
        "save:\n  segmentation_suffix: b1\n  probability_suffix: a_b\n  probabilities: [1]\n",
    )
    assert refused("-test", "test.yaml", "-model", model, session="results") == [
        "[name-twice] HERE/data/test.csv:3: got the result d_a_b1.nii.gz of 'd_a', which 'd' has "
        "too; expected a name of its own for every result; fix: rename one of the cases, or change "
        "the suffixes under save"
    ]


def test_labels_that_two_cases_share_are_named(command, place):
    place.write("data/train.csv", HEADER + A + B.replace("b/labels", "a/labels"))
    result = command("-check", "train.yaml")
    assert (result.returncode, result.stderr) == (
        0,
        "WARNING HERE/data/train.csv:3: b has the same labels as a (HERE/data/train.csv:2)\n",
    )


def test_many_cases_with_the_images_of_another_are_a_few_lines(command, place):
    place.write(
        "data/train.csv", HEADER + A + "".join(A.replace("a", f"e{i}", 1) for i in range(9))
    )
    assert command("-check", "train.yaml").warnings == [
        *(
            f"WARNING HERE/data/train.csv:{i + 3}: e{i} has the same images as a "
            "(HERE/data/train.csv:2)"
            for i in range(3)
        ),
        "WARNING 6 more cases have the images of another",
    ]


def test_a_copy_of_a_training_case_is_named_in_validation_and_in_testing(command, place, model):
    """The copy has another name and lies elsewhere."""
    (place / "data/copy").mkdir()
    for file in ("T1", "FLAIR", "labels", "roi"):
        shutil.copy(place / f"data/a/{file}.nii.gz", place / f"data/copy/{file}.nii.gz")
    row = "new,copy/T1.nii.gz,copy/FLAIR.nii.gz,copy/labels.nii.gz,copy/roi.nii.gz\n"
    place.write("data/validation.csv", HEADER + row)
    place.write("data/test.csv", HEADER + row)
    end = "their scores say nothing about new cases"
    assert command("-check", "train.yaml").warnings == [
        f"WARNING validation cases that are also trained on: new (there a); {end}"
    ]
    assert command("-test", "test.yaml", "-model", model).warnings == [
        f"WARNING cases that {model} was trained on: new; {end}"
    ]
