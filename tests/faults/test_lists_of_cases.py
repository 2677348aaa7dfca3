"""Lists of cases in which files or names belong to another case: told, refused, or left out."""

import json

import pytest

HEADER = "case,channel_T1,channel_FLAIR,labels,roi\n"
ROW = "{0},{0}/T1.nii.gz,{0}/FLAIR.nii.gz,{1}/labels.nii.gz,{0}/roi.nii.gz\n"
TRAIN = ("-check", "train.yaml")
TEST = ("-test", "test.yaml", "-model", "M.save")


def use_dataset(place, pairs):
    """List the training cases in a dataset.json, each image with the labels of a case."""
    entries = {
        image: {
            "images": [f"{image}/T1.nii.gz", f"{image}/FLAIR.nii.gz"],
            "label": f"{case}/labels.nii.gz",
        }
        for image, case in pairs
    }
    content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "dataset": entries}
    place.write("data/dataset.json", json.dumps(content, indent=0))
    place.edit("train.yaml", "    table: data/train.csv", "    dataset: data")


def test_a_dataset_that_pairs_images_with_the_labels_of_another_case_is_refused(refused, place):
    use_dataset(place, [("a", "b"), ("b", "a"), ("c", "c")])
    (line,) = refused(*TRAIN)
    assert line.startswith("[dataset-pairs] HERE/data/dataset.json:")
    assert line.split(": got ")[1] == (
        "the labels b/labels.nii.gz beside a/T1.nii.gz, and 1 more such pair; expected files of "
        "one case in every entry; fix: correct the entries; if the files belong together as they "
        "are, list them in a table"
    )


def test_a_table_that_pairs_images_with_the_labels_of_another_case_is_a_warning(command, place):
    place.write("data/train.csv", HEADER + ROW.format("a", "b") + ROW.format("b", "a"))
    assert command(*TRAIN).warnings == [
        "WARNING HERE/data/train.csv:2 labels: the labels b/labels.nii.gz beside a/T1.nii.gz, and "
        "1 more such pair: by their names, files of different cases; correct the list, unless they "
        "belong together"
    ]


def test_list_files_with_a_channel_in_another_order_are_a_warning(command, place):
    place.edit(
        "train.yaml",
        "    table: data/train.csv",
        "    channels: {FLAIR: data/FLAIR.txt, T1: data/T1.txt}\n    labels: data/labels.txt",
    )
    place.write("data/FLAIR.txt", "b/FLAIR.nii.gz\na/FLAIR.nii.gz\n")
    warnings = command(*TRAIN).warnings
    assert warnings[0].startswith(
        "WARNING HERE/data/FLAIR.txt:1: the image of FLAIR b/FLAIR.nii.gz beside a/T1.nii.gz, and "
        "1 more such pair: "
    )


def test_names_that_do_not_tell_cases_apart_say_nothing_of_pairs(command, place):
    for case in "ab":
        (place / f"data/{case}/labels.nii.gz").rename(place / f"data/labels-{case}x{case}.nii.gz")
    for case, row in zip("ab", ("labels-axa", "labels-bxb"), strict=True):
        place.edit("data/train.csv", f"{case}/labels", row)
    assert command(*TRAIN).warnings == []


def test_names_that_differ_in_capitals_only_are_refused(refused, place, model):
    rows = ROW.format("d", "d"), ROW.format("d", "d").replace("d,", "D,", 1)
    place.write("data/test.csv", HEADER + "".join(rows))
    assert refused(*TEST, session="results") == [
        "[case-name-twice] HERE/data/test.csv:3 case: got the name 'D', which differs from 'd' "
        "(HERE/data/test.csv:2 case) in capitals only; expected a name of its own, also on disks "
        "that do not tell them apart; fix: rename one of them"
    ]


LACKING = {
    "roi": ("ROI", "c,c/T1.nii.gz,c/FLAIR.nii.gz,c/labels.nii.gz,\n", "roi-missing"),
    "channel": ("FLAIR", "c,c/T1.nii.gz,,c/labels.nii.gz,c/roi.nii.gz\n", "channel-lacking"),
}


@pytest.mark.parametrize("what", LACKING)
def test_with_keep_going_a_case_without_its_roi_or_channel_costs_only_itself(
    command, place, model, what
):
    _, row, code = LACKING[what]
    place.write("data/test.csv", HEADER + row + ROW.format("d", "d"))
    result = command(*TEST, "-keepGoing")
    assert result.returncode == 3
    (error,) = result.errors
    assert error.startswith(f"ERROR [{code}] HERE/data/test.csv:2: got no ")
    assert " for 1 of 1 cases (c); " in error
    assert result.warnings == ["WARNING no result for c; going on with the other cases"]
    results = place / "runs/results/predictions"
    assert [file.name for file in results.iterdir()] == ["d_Segm.nii.gz"]


def test_with_keep_going_cases_that_all_lack_their_roi_are_refused_together(refused, place, model):
    rows = [LACKING["roi"][1], LACKING["roi"][1].replace("c", "d").replace("dase", "case")]
    place.write("data/test.csv", HEADER + "".join(rows))
    (line,) = refused(*TEST, "-keepGoing", session="results")
    assert " for 2 of 2 cases (c, d); " in line


def test_a_shard_that_is_refused_leaves_no_folder(command, place, model):
    place.edit("data/test.csv", "d/T1", "d/T9")
    for shard in ("1/2", "2/2"):
        result = command(*TEST, "-part", shard)
        assert result.returncode == (2 if shard == "1/2" else 0), result.stderr
        if shard == "1/2":
            assert not (place / "runs").exists()
