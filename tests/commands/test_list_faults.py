"""Faults in tables and list files, with the line of each."""

import os

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
                "channel_NAME, labels, roi, weights_1, weights_2, …; fix: rename or remove it; "
                "did you mean 'labels'?"
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
