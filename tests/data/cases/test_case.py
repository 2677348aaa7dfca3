"""Lists of cases: every way to write the same cases gives the same cases; every fault is named."""

import json
import os
import threading

import nibabel
import numpy as np
import pytest

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case import case_list, list_cases
from deepseg.errors import DeepsegError

CHANNELS = ["FLAIR", "T1c"]
PATIENTS = ["p1", "p2", "p3"]


@pytest.fixture
def folder(tmp_path):
    """Three patients with two images, labels and a mask each, and a list file of each kind."""
    for patient in PATIENTS:
        (tmp_path / patient).mkdir()
        for kind in ("FLAIR", "T1c", "labels", "roi"):
            (tmp_path / patient / f"{kind}.nii.gz").touch()
    for kind in ("FLAIR", "T1c", "labels", "roi"):
        write(tmp_path / f"{kind}.txt", *(f"{patient}/{kind}.nii.gz" for patient in PATIENTS))
    return tmp_path


def write(file, *lines):
    file.write_bytes("".join(f"{line}\n" for line in lines).encode())
    return file


def of_lists(folder, **more):
    lists = {name: folder / f"{name}.txt" for name in CHANNELS}
    return CasesConfig(**{"channels": lists, "labels": folder / "labels.txt", **more})


def of_table(folder, *lines, name="train.csv"):
    return CasesConfig(table=write(folder / name, *lines))


def complaints(config, channels=CHANNELS):
    with pytest.raises(DeepsegError) as refusal:
        list_cases(config, channels)
    return str(refusal.value).split("\n")


def files(cases):
    return [(case.channels, case.labels, case.roi, case.weight_maps) for case in cases]


def names(config, channels=CHANNELS):
    return [case.name for case in list_cases(config, channels)]


# ---- List files ----


def test_a_case_has_a_line_of_every_list(folder):
    config = of_lists(folder, roi=folder / "roi.txt", label_map={4: 3}, trust_arrays=True)
    second = list_cases(config, CHANNELS)[1]
    assert second.name == "p2"
    assert second.channels == (folder / "p2/FLAIR.nii.gz", folder / "p2/T1c.nii.gz")
    assert second.labels == folder / "p2/labels.nii.gz"
    assert second.roi == folder / "p2/roi.nii.gz"
    assert second.weight_maps == ()
    assert second.label_map == ((4, 3),)
    assert second.trust_arrays
    assert second.where == f"{folder / 'FLAIR.txt'}:2"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("{0}\r\n{1}\r\n{2}\r\n", id="lines that end as on Windows"),
        pytest.param("{0}\n{1}\n{2}", id="no end of the last line"),
        pytest.param("\ufeff{0}\n{1}\n{2}\n", id="a byte order mark"),
        pytest.param("# all\n\n{0}\n  # half\n{1}\n   \n{2}\n\n", id="comments and blank lines"),
        pytest.param("  {0}\t\n{1}   \n {2}\n", id="spaces around"),
        pytest.param("\"{0}\"\n'{1}'\n{2}\n", id="quotes around"),
        pytest.param("./{0}\np3/../{1}\n{2}\n", id="detours"),
    ],
)
def test_the_way_a_list_is_typed_does_not_matter(folder, text):
    clean = files(list_cases(of_lists(folder), CHANNELS))
    lines = [f"{patient}/T1c.nii.gz" for patient in PATIENTS]
    (folder / "T1c.txt").write_bytes(text.format(*lines).encode())
    assert files(list_cases(of_lists(folder), CHANNELS)) == clean


def test_lines_are_counted_as_an_editor_counts_them(folder):
    write(folder / "FLAIR.txt", "# one", "", *(f"{p}/FLAIR.nii.gz" for p in PATIENTS))
    assert list_cases(of_lists(folder), CHANNELS)[0].where == f"{folder / 'FLAIR.txt'}:3"


def test_absolute_paths_stay_as_they_are(folder, tmp_path_factory):
    elsewhere = write(
        tmp_path_factory.mktemp("lists") / "FLAIR.txt",
        *(folder / p / "FLAIR.nii.gz" for p in PATIENTS),
    )
    config = of_lists(folder, channels={"FLAIR": elsewhere, "T1c": folder / "T1c.txt"})
    assert list_cases(config, CHANNELS)[2].channels[0] == folder / "p3/FLAIR.nii.gz"


def test_a_dash_is_a_file_that_the_case_lacks(folder):
    write(folder / "T1c.txt", "p1/T1c.nii.gz", " - ", "p3/T1c.nii.gz")
    write(folder / "labels.txt", "p1/labels.nii.gz", "p2/labels.nii.gz", "-")
    cases = list_cases(of_lists(folder), CHANNELS)
    assert [case.channels[1] is None for case in cases] == [False, True, False]
    assert [case.labels is None for case in cases] == [False, False, True]
    assert [case.name for case in cases] == PATIENTS


def test_channels_are_matched_by_name_whatever_their_order_and_case(folder):
    clean = files(list_cases(of_lists(folder), CHANNELS))
    lists = {"t1C": folder / "T1c.txt", "Flair": folder / "FLAIR.txt"}
    assert files(list_cases(of_lists(folder, channels=lists), CHANNELS)) == clean


def test_a_tuple_of_lists_is_in_the_order_of_the_model(folder):
    lists = (folder / "T1c.txt", folder / "FLAIR.txt")
    first = list_cases(of_lists(folder, channels=lists), CHANNELS)[0]
    assert first.channels == (folder / "p1/T1c.nii.gz", folder / "p1/FLAIR.nii.gz")


def test_names_of_channels_that_differ_in_case_only_are_told_apart(folder):
    lists = {"t1": folder / "T1c.txt", "T1": folder / "FLAIR.txt"}
    first = list_cases(of_lists(folder, channels=lists), ["T1", "t1"])[0]
    assert first.channels == (folder / "p1/FLAIR.nii.gz", folder / "p1/T1c.nii.gz")


def test_a_channel_too_many_is_refused(folder):
    assert complaints(of_lists(folder), ["FLAIR"]) == [
        "[channel-unknown] got channel 'T1c'; expected the channels of the model: FLAIR; "
        "fix: rename or remove it"
    ]


def test_a_model_with_numbered_channels_takes_named_lists_in_their_order(folder):
    lists = {"T1c": folder / "T1c.txt", "FLAIR": folder / "FLAIR.txt"}
    first = list_cases(of_lists(folder, channels=lists), ["channel1", "channel2"])[0]
    assert first.channels == (folder / "p1/T1c.nii.gz", folder / "p1/FLAIR.nii.gz")


def test_wrong_names_of_channels_are_all_named(folder):
    lists = {"FLAR": folder / "FLAIR.txt", "T2": folder / "T1c.txt"}
    assert complaints(of_lists(folder, channels=lists)) == [
        "[channel-unknown] got channel 'FLAR'; expected the channels of the model: FLAIR, T1c; "
        "fix: rename or remove it; did you mean 'FLAIR'?",
        "[channel-unknown] got channel 'T2'; expected the channels of the model: FLAIR, T1c; "
        "fix: rename or remove it",
        "[channel-missing] got no channel 'FLAIR'; expected the channels of the model: FLAIR, "
        "T1c; fix: add this channel",
        "[channel-missing] got no channel 'T1c'; expected the channels of the model: FLAIR, T1c; "
        "fix: add this channel",
    ]


@pytest.mark.parametrize("as_names", [False, True], ids=["tuple", "names"])
def test_the_number_of_lists_is_the_number_of_channels(folder, as_names):
    lists = {"a": folder / "FLAIR.txt"} if as_names else (folder / "FLAIR.txt",)
    assert complaints(of_lists(folder, channels=lists), ["channel1", "channel2"]) == [
        "[channel-count] got 1 channel; expected 2, in the order of the model: channel1, "
        "channel2; fix: give one source of images per channel of the model"
    ]


@pytest.mark.parametrize(
    ("kept", "line", "lone"),
    [
        pytest.param(["p1", "p2"], 3, "p3", id="the last line is missing"),
        pytest.param(["p1", "p3"], 2, "p2", id="a line in the middle is missing"),
        pytest.param(["p3"], 2, "p2", id="nothing tells which line is missing"),
    ],
)
def test_lists_of_unequal_length_are_refused_with_all_counts(folder, kept, line, lone):
    write(folder / "T1c.txt", *(f"{patient}/T1c.nii.gz" for patient in kept))
    assert complaints(of_lists(folder)) == [
        f"[list-lengths] {folder / 'T1c.txt'}: got 3 in FLAIR.txt, {len(kept)} in T1c.txt, 3 in "
        "labels.txt; expected an entry for every case in every list; fix: add the line for "
        f"{folder / 'FLAIR.txt'}:{line} {lone}/FLAIR.nii.gz, the first case without one; "
        "'-' stands for no file"
    ]


EMPTY = (
    "[list-empty-line] {file}: got an empty line between two cases, and none at this place in "
    "{others}; expected a line for every case in every list; fix: write '-' if the case has no "
    "such file, or else remove the empty line"
)


@pytest.mark.parametrize(
    ("first", "second", "labels", "faults"),
    [
        pytest.param(
            ["p1", "", "p3"],
            ["p1", "p2", ""],
            None,
            [("FLAIR.txt:2", "T1c.txt")],
            id="the files of two cases",
        ),
        pytest.param(
            ["p1", "p2", "p3"],
            ["p1", "p2", "p3"],
            ["p1", "", "p3"],
            [("labels.txt:2", "FLAIR.txt, T1c.txt")],
            id="an empty line where there is nothing",
        ),
        pytest.param(
            ["p1", "p2", "p3"],
            ["p1", "p2", "p3"],
            ["p1", "", "p3", "-"],
            [("labels.txt:2", "FLAIR.txt, T1c.txt")],
            id="an empty line, and as many entries",
        ),
        pytest.param(
            ["p1", "", "p3", "p2"],
            ["p1", "", "p3", "p2"],
            ["p1", "p2", "", "p3"],
            [
                ("FLAIR.txt:2", "labels.txt"),
                ("T1c.txt:2", "labels.txt"),
                ("labels.txt:3", "FLAIR.txt, T1c.txt"),
            ],
            id="at another place",
        ),
    ],
)
def test_an_empty_line_that_may_be_a_case_without_a_file_is_refused(
    folder, first, second, labels, faults
):
    settings = {"FLAIR": first, "T1c": second, "labels": labels or []}
    for kind, patients in settings.items():
        lines = [f"{p}/{kind}.nii.gz" if p.startswith("p") else p for p in patients]
        write(folder / f"{kind}.txt", *lines)
    config = of_lists(folder, labels=None if labels is None else folder / "labels.txt")
    assert [c for c in complaints(config) if "empty-line" in c] == [
        EMPTY.format(file=folder / file, others=companions) for file, companions in faults
    ]


def test_an_empty_line_is_nothing_where_all_lists_have_it_or_the_paths_tell(folder):
    names_of_all = of_lists(folder, names=write(folder / "names.txt", "a", "b", "c"))
    for kind in (*CHANNELS, "labels", "names"):
        lines = (folder / f"{kind}.txt").read_text().splitlines()
        write(folder / f"{kind}.txt", "", lines[0], "", "", *lines[1:], "")
    assert names(names_of_all) == ["a", "b", "c"]
    write(folder / "T1c.txt", "p1/T1c.nii.gz", "", "-", "# two", "", "p3/T1c.nii.gz")
    assert names(of_lists(folder)) == PATIENTS


def test_paths_that_say_nothing_of_their_case_do_not_excuse_an_empty_line(folder):
    write(folder / "names.txt", "a", "", "b", "c")
    assert complaints(of_lists(folder, names=folder / "names.txt"))[0].startswith(
        f"[list-empty-line] {folder / 'names.txt'}:2: "
    )
    write(folder / "roi.txt", *["p1/roi.nii.gz"] * 2, "", "p1/roi.nii.gz")
    assert complaints(of_lists(folder, roi=folder / "roi.txt"))[0].startswith(
        f"[list-empty-line] {folder / 'roi.txt'}:3: "
    )


def test_a_comment_that_is_the_path_of_a_file_is_named(folder):
    (folder / "#p4.nii.gz").touch()
    for kind in CHANNELS:
        write(folder / f"{kind}.txt", f"p1/{kind}.nii.gz", "#p4.nii.gz", "#p5.nii.gz")
    config = of_lists(folder, labels=None)
    assert case_list(config, CHANNELS).warnings == tuple(
        f"{folder / kind}.txt:2: #p4.nii.gz is a file, but lines that begin with '#' do not count; "
        "write './' in front of it if it is meant"
        for kind in CHANNELS
    )
    write(folder / "T1c.txt", "p1/T1c.nii.gz", "./#p4.nii.gz")
    write(folder / "FLAIR.txt", "p1/FLAIR.nii.gz", "./#p4.nii.gz")
    assert list_cases(config, CHANNELS)[1].channels == (folder / "#p4.nii.gz",) * 2


def test_lists_of_one_name_are_told_apart_by_their_folders(folder):
    (folder / "more").mkdir()
    write(folder / "more/labels.txt", "../p1/roi.nii.gz")
    (complaint,) = complaints(of_lists(folder, roi=folder / "more/labels.txt"))
    assert f"3 in {folder / 'labels.txt'}, 1 in {folder / 'more/labels.txt'}" in complaint


def test_a_short_list_of_names_is_refused(folder):
    (complaint,) = complaints(of_lists(folder, names=write(folder / "names.txt", "a", "b")))
    assert complaint.startswith(
        f"[list-lengths] {folder / 'names.txt'}: got 3 in FLAIR.txt, 3 in T1c.txt, 3 in "
        "labels.txt, 2 in names.txt;"
    )


def test_faults_of_all_lists_come_at_once(folder):
    write(folder / "T1c.txt", "p1/T1c.nii.gz", "p2/T1x.nii.gz")
    (folder / "roi.txt").write_bytes(b"p1/roi.nii.gz\np2/r\xffi\n")
    (folder / "labels.txt").rename(folder / "label.txt")
    assert complaints(of_lists(folder, roi=folder / "roi.txt")) == [
        f"[cases-file-missing] {folder / 'labels.txt'}: got no such file; expected a text file "
        "that says where the cases are; fix: correct the path; did you mean 'label.txt'?",
        f"[cases-file-syntax] {folder / 'roi.txt'}:2: got the byte 0xff; expected text in UTF-8; "
        "fix: save the file with the encoding UTF-8, or give the file that was meant",
        f"[file-missing] {folder / 'T1c.txt'}:2 p2/T1x.nii.gz: got no such file; expected an image "
        "file; fix: correct the path; did you mean 'T1c.nii.gz'?",
        f"[list-lengths] {folder / 'T1c.txt'}: got 3 in FLAIR.txt, 2 in T1c.txt; expected an entry "
        f"for every case in every list; fix: add the line for {folder / 'FLAIR.txt'}:3 "
        "p3/FLAIR.nii.gz, the first case without one; '-' stands for no file",
    ]


def test_a_pipe_instead_of_a_list_is_refused_without_waiting(folder):
    (folder / "labels.txt").unlink()
    os.mkfifo(folder / "labels.txt")
    result = []
    reader = threading.Thread(
        target=lambda: result.extend(complaints(of_lists(folder))), daemon=True
    )
    reader.start()
    reader.join(10)
    assert result == [
        f"[cases-file-unreadable] {folder / 'labels.txt'}: got a folder, pipe or device; expected "
        "a text file that says where the cases are; fix: give a file that this user may read"
    ]


def test_characters_that_no_path_holds_are_refused(folder):
    write(folder / "labels.txt", "p1/labels.nii.gz", "p2/lab\0els.nii.gz", "p3/labels.nii.gz")
    assert missing(of_lists(folder)) == {
        "p2": [
            f"[file-unreadable] {folder / 'labels.txt'}:2 p2/lab\0els.nii.gz: got embedded null "
            "byte; expected a readable image file; fix: give a file that this user may read"
        ]
    }


def missing(config, channels=CHANNELS):
    """What is missing, by the name of the cases that miss something."""
    cases = list_cases(config, channels)
    return {case.name: list(map(str, case.missing)) for case in cases if case.missing}


def test_a_missing_file_is_a_problem_of_its_case(folder):
    write(folder / "T1c.txt", "p1/T1c.nii.gz", "p2/T1c.nii.gz", "p3/T2c.nii.gz")
    write(folder / "labels.txt", "lost/a.nii.gz", "p2/labels.nii.gz", "-")
    write(folder / "roi.txt", "p1/roi.nii.gz", "p2/roi.nii.gz", "p3/rio.nii.gz")
    end = "expected an image file; fix: correct the path"
    assert missing(of_lists(folder, roi=folder / "roi.txt")) == {
        "p1": [
            f"[file-missing] {folder / 'labels.txt'}:1 lost/a.nii.gz: got no folder lost in "
            f"{folder}; {end}"
        ],
        "p3": [
            f"[file-missing] {folder / 'T1c.txt'}:3 p3/T2c.nii.gz: got no such file; {end}; "
            "did you mean 'T1c.nii.gz'?",
            f"[file-missing] {folder / 'roi.txt'}:3 p3/rio.nii.gz: got no such file; {end}; did "
            "you mean 'roi.nii.gz'?",
        ],
    }


def test_a_missing_file_of_a_table_is_named_by_line_and_column(folder):
    end = "expected an image file; fix: correct the path; did you mean 'T1c.nii.gz'?"
    assert missing(of_table(folder, *(line.replace("p2/T1c", "p2/T2c") for line in TABLE))) == {
        "np2": [
            f"[file-missing] {folder / 'train.csv'}:3 channel_T1c p2/T2c.nii.gz: got no such file; "
            + end
        ]
    }


def test_missing_files_come_with_the_faults_of_names(folder):
    write(folder / "labels.txt", "p1/labels.nii.gz", "p2/labels.nii.gz", "p3/lost.nii.gz")
    listed = write(folder / "names.txt", "a", "../b", "c")
    result = complaints(of_lists(folder, names=listed))
    assert [complaint.split(": ")[0] for complaint in result] == [
        f"[case-name] {listed}:2",
        f"[file-missing] {folder / 'labels.txt'}:3 p3/lost.nii.gz",
    ]


def test_a_missing_4d_image_is_missing_once(tmp_path):
    config = decathlon(tmp_path, {"a": 2}, CHANNELS)
    (tmp_path / "imagesTr/a.nii.gz").unlink()
    assert missing(config) == {
        "a": [
            f"[file-missing] {tmp_path / 'dataset.json'}:8 ./imagesTr/a.nii.gz: got no such file; "
            "expected an image file; fix: correct the path"
        ]
    }


def test_many_missing_files_are_all_named(folder):
    write(folder / "labels.txt", *(f"lost/{i}.nii.gz" for i in range(30)))
    lost = [c for c in complaints(of_lists(folder)) if c.startswith("[file-missing]")]
    assert [
        f"{folder / 'labels.txt'}:{i + 1} lost/{i}.nii.gz" in c for i, c in enumerate(lost)
    ] == [True] * 30


@pytest.mark.parametrize("text", ["", "# p1/FLAIR.nii.gz\n\n"], ids=["empty", "only comments"])
def test_lists_without_cases_are_refused(folder, text):
    for kind in (*CHANNELS, "labels"):
        (folder / f"{kind}.txt").write_text(text)
    assert complaints(of_lists(folder)) == [
        f"[no-cases] {folder / 'FLAIR.txt'}: got no case; expected at least one case; fix: list "
        "the images of at least one case; lines that begin with '#' do not count"
    ]


def test_weight_maps_have_no_gaps(folder):
    weights = write(folder / "weights.txt", "p1/roi.nii.gz", "-", "p3/roi.nii.gz")
    config = of_lists(folder, weight_maps=(folder / "roi.txt", weights))
    assert complaints(config) == [
        f"[weights-missing] {weights}:2: got no file; expected a weight map of every category for "
        "every case; fix: give the file, or leave out all weight maps"
    ]
    write(weights, *(f"{patient}/labels.nii.gz" for patient in PATIENTS))
    maps = list_cases(config, CHANNELS)[1].weight_maps
    assert maps == (folder / "p2/roi.nii.gz", folder / "p2/labels.nii.gz")


# ---- Names ----


def named(folder, *paths):
    """Names of cases with these images."""
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return names(CasesConfig(channels=(write(folder / "list.txt", *paths),)), ["T1"])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        pytest.param(["a/T1.nii", "b/T1.nii"], ["a", "b"], id="folders"),
        pytest.param(["a.b/x/T1.nii", "c/x/T1.nii"], ["a.b", "c"], id="a common folder inside"),
        pytest.param(["x/a.nii.gz", "y/b.nii.gz"], ["a", "b"], id="files"),
        pytest.param(["s/a/T.nii", "s/b/T.nii", "t/a/T.nii"], ["s_a", "s_b", "t_a"], id="both"),
        pytest.param(["a/T1.nii"], ["T1"], id="a single case"),
        pytest.param(["a/T1.nii", "a/T1.nii"], ["T1", "T1_2"], id="a file that comes twice"),
        pytest.param(["a/T1.nii", "b/T1.mha"], ["a", "b"], id="two formats"),
    ],
)
def test_names_are_what_tells_the_paths_apart(tmp_path, paths, expected):
    assert named(tmp_path, *paths) == expected


def test_the_name_does_not_change_with_a_missing_channel(folder):
    write(folder / "FLAIR.txt", "p1/FLAIR.nii.gz", "-", "p3/FLAIR.nii.gz")
    assert names(of_lists(folder)) == PATIENTS


def test_cases_that_lack_every_channel_still_get_a_name(folder):
    for kind in CHANNELS:
        write(folder / f"{kind}.txt", f"p1/{kind}.nii.gz", "-", f"p3/{kind}.nii.gz")
    assert len(set(names(of_lists(folder)))) == 3


def test_given_names_lose_the_ending_of_images(folder):
    listed = write(folder / "names.txt", "one.nii.gz", "two.v1.nii", "-")
    assert names(of_lists(folder, names=listed)) == ["one", "two.v1", "FLAIR"]


def test_names_from_paths_make_way_for_given_names(folder):
    listed = write(folder / "names.txt", "p3", "-", "-")
    assert names(of_lists(folder, names=listed)) == ["p3", "p2", "p3_2"]


def test_a_lone_quote_belongs_to_the_name(folder):
    listed = write(folder / "names.txt", "'a", "b'", "\"c'")
    assert names(of_lists(folder, names=listed)) == ["'a", "b'", "\"c'"]


def test_names_from_long_paths_are_cut(tmp_path):
    paths = [f"{a * 150}/{b * 150}/T1.nii" for a, b in ("xy", "xz", "wy")]
    assert named(tmp_path, *paths) == [
        "x" * 49 + "_" + "y" * 150,
        "x" * 49 + "_" + "z" * 150,
        "w" * 49 + "_" + "y" * 150,
    ]


def test_names_from_long_paths_are_cut_between_characters(tmp_path):
    umlauts = "\u00e4" * 101
    assert named(tmp_path, f"{umlauts}x/T1.nii", f"{umlauts}y/T1.nii") == [
        umlauts[:99] + "x",
        umlauts[:99] + "y",
    ]


def test_names_that_are_not_unique_or_no_names_are_refused(folder):
    write(folder / "names.txt", "a", "\u00e4" * 100, "\u00e4" * 100 + "c")
    assert complaints(of_lists(folder, names=folder / "names.txt")) == [
        f"[case-name] {folder / 'names.txt'}:3: got the name '{chr(228) * 100}c' of 201 bytes; "
        "expected at most 200; fix: shorten it; a letter beyond a to z takes 2 to 4 bytes"
    ]
    listed = write(folder / "names.txt", "a.nii", "../b", "a.nii.gz")
    assert complaints(of_lists(folder, names=listed)) == [
        f"[case-name] {listed}:2: got the name '../b'; expected a name that can be part of a file "
        "name; fix: leave out / and \\ and control characters",
        f"[case-name-twice] {listed}:3: got the name 'a', as in {listed}:1; expected a name of its "
        "own; fix: rename one of them",
    ]


# ---- Tables ----

TABLE = (
    "case,channel_FLAIR,channel_T1c,labels,roi",
    *(f"n{p},{p}/FLAIR.nii.gz,{p}/T1c.nii.gz,{p}/labels.nii.gz,{p}/roi.nii.gz" for p in PATIENTS),
)


def test_a_table_and_list_files_give_the_same_cases(folder):
    cases = list_cases(of_table(folder, *TABLE), CHANNELS)
    listed = list_cases(of_lists(folder, roi=folder / "roi.txt"), CHANNELS)
    assert files(cases) == files(listed)
    assert [case.name for case in cases] == ["np1", "np2", "np3"]
    assert [case.where for case in cases] == [f"{folder / 'train.csv'}:{n}" for n in (2, 3, 4)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda line: line.replace(",", " , "), id="spaces around cells"),
        pytest.param(lambda line: line.replace(",", ";"), id="semicolons"),
        pytest.param(lambda line: line.replace(",", "\t"), id="tabs"),
        pytest.param(lambda line: '"' + line.replace(",", '","') + '"', id="quotes"),
        pytest.param(
            lambda line: ", ".join(f'"{cell}"' for cell in line.split(",")),
            id="spaces before quotes",
        ),
        pytest.param(lambda line: f"{line}\r", id="lines that end as on Windows"),
        pytest.param(lambda line: f"  # a, b\n\n,,,,\n{line}", id="comments and empty rows"),
        pytest.param(
            lambda line: f"\ufeff{line}" if "case" in line else line, id="byte order mark"
        ),
    ],
)
def test_the_way_a_table_is_typed_does_not_matter(folder, change):
    clean = list_cases(of_table(folder, *TABLE), CHANNELS)
    cases = list_cases(of_table(folder, *map(change, TABLE)), CHANNELS)
    assert files(cases) == files(clean)
    assert [case.name for case in cases] == [case.name for case in clean]


def test_the_columns_of_deepmedic_are_understood(folder):
    config = of_table(
        folder,
        "roi_mask,channel_1_T1c,channel_2_FLAIR,prediction_filename,ground_truth",
        "p1/roi.nii.gz,p1/T1c.nii.gz,p1/FLAIR.nii.gz,pred1.nii.gz,p1/labels.nii.gz",
    )
    (case,) = list_cases(config, ["channel1", "channel2"])
    assert case.name == "pred1"
    assert case.channels == (folder / "p1/T1c.nii.gz", folder / "p1/FLAIR.nii.gz")
    assert (case.labels, case.roi) == (folder / "p1/labels.nii.gz", folder / "p1/roi.nii.gz")


def test_columns_without_the_names_of_channels_are_taken_in_their_order(folder):
    files = [f"{patient}/{kind}.nii.gz" for patient in PATIENTS for kind in ("T1c", "FLAIR", "roi")]
    columns = [f"channel_{i}" for i in (1, 2, 3, 5, 8, 9, 10, 11)]
    config = of_table(folder, ",".join(columns), ",".join(files[:8]))
    (case,) = list_cases(config, [f"channel{i + 1}" for i in range(8)])
    assert case.channels == tuple(folder / file for file in files[:8])


def test_columns_count_in_their_order_for_channels_without_names_and_a_line_says_so(folder):
    kinds = ("FLAIR", "T1")
    files = {"T1": "p1/T1c.nii.gz", "FLAIR": "p1/FLAIR.nii.gz"}
    header = ",".join(f"channel_{kind}" for kind in kinds)
    config = of_table(folder, header, ",".join(files[kind] for kind in kinds))
    listed = case_list(config, ["channel1", "channel2"])
    assert listed.cases[0].channels == tuple(folder / files[kind] for kind in kinds)
    assert listed.columns == kinds
    assert listed.warnings == (
        f"{folder / 'train.csv'}:1: the channels of the model have no names, so columns count in "
        "their order: channel1 is the column channel_FLAIR, channel2 channel_T1",
    )
    again = case_list(config, ["channel1", "channel2"], columns=["T1", "FLAIR"])
    assert again.cases[0].channels == (folder / files["T1"], folder / files["FLAIR"])
    assert (again.warnings, again.columns) == ((), ("T1", "FLAIR"))
    unlike = case_list(config, ["channel1", "channel2"], columns=["T1", "T2"])
    assert len(unlike.warnings) == 1


def test_columns_that_deepmedic_would_sort_otherwise_are_refused_unless_they_were_learnt_from(
    folder,
):
    config = of_table(folder, "channel_T1,channel_FLAIR", "p1/T1c.nii.gz,p1/FLAIR.nii.gz")
    with pytest.raises(DeepsegError) as refusal:
        case_list(config, ["channel1", "channel2"])
    assert str(refusal.value) == (
        f"[channel-order] {folder / 'train.csv'}:1: got columns in the order T1, FLAIR, whose "
        "names sort as FLAIR, T1; expected columns that tell which is channel1 and which channel2 "
        "of the model; fix: sort the columns, as DeepMedic does, or call them channel_channel1, "
        "channel_channel2 as the model does"
    )
    learnt = case_list(config, ["channel1", "channel2"], columns=["FLAIR", "T1"])
    assert learnt.cases[0].channels == (folder / "p1/FLAIR.nii.gz", folder / "p1/T1c.nii.gz")


@pytest.mark.parametrize("kinds", [("2", "1"), ("1", "10", "2")])
def test_numbered_columns_that_do_not_rise_are_refused_with_both_orders(folder, kinds):
    header = ",".join(f"channel_{kind}" for kind in kinds)
    config = of_table(folder, header, ",".join(["p1/T1c.nii.gz"] * len(kinds)))
    channels = [f"channel{i + 1}" for i in range(len(kinds))]
    in_alphabet = {"2": "1, 2", "1": "1, 2, 10"}[kinds[0]]
    assert complaints(config, channels) == [
        f"[channel-order] {folder / 'train.csv'}:1: got columns in the order {', '.join(kinds)}, "
        f"whose names sort as {in_alphabet}; expected columns that tell which is channel1 and "
        "which channel2 of the model; fix: sort the columns, as DeepMedic does, or call them "
        f"{', '.join('channel_' + name for name in channels)} as the model does"
    ]


def test_columns_with_the_names_of_channels_may_stand_in_any_order(folder):
    config = of_table(folder, "channel_channel2,channel_channel1", "p1/T1c.nii.gz,p1/FLAIR.nii.gz")
    (case,) = list_cases(config, ["channel1", "channel2"])
    assert case.channels == (folder / "p1/FLAIR.nii.gz", folder / "p1/T1c.nii.gz")


def test_a_row_that_is_a_comment_and_looks_like_a_case_is_named(folder):
    config = of_table(folder, "# all", *TABLE[:2], "#" + TABLE[2], TABLE[3], "# a, b")
    assert case_list(config, CHANNELS).warnings == (
        f"{folder / 'train.csv'}:4: a row that begins with '#' does not count, the first '#np2'; a "
        "name that begins with '#' needs quotes around it",
    )
    assert names(config) == ["np1", "np3"]
    assert names(of_table(folder, *TABLE[:2], '"#n"' + TABLE[2][3:])) == ["np1", "#n"]


def test_empty_cells_and_dashes_are_no_files_and_columns_may_be_left_out(folder):
    config = of_table(folder, "channel_T1c,channel_FLAIR,roi", "-,p1/FLAIR.nii.gz,")
    (case,) = list_cases(config, CHANNELS)
    assert files([case]) == [((folder / "p1/FLAIR.nii.gz", None), None, None, ())]


SPLIT = (
    "case,split,channel_FLAIR,channel_T1c",
    "np1,training,p1/FLAIR.nii.gz,p1/T1c.nii.gz",
    "np2,test,p2/FLAIR.nii.gz,p2/T1c.nii.gz",
    "np3,,p3/FLAIR.nii.gz,p3/T1c.nii.gz",
)


@pytest.mark.parametrize(("part", "expected"), [("training", ["np1"]), ("test", ["np2"])])
def test_a_part_takes_the_rows_of_its_split(folder, part, expected):
    table = write(folder / "train.csv", *SPLIT)
    assert names(CasesConfig(table=table, part=part)) == expected


def test_without_a_column_split_all_rows_belong_to_every_part(folder):
    table = write(folder / "train.csv", *TABLE)
    assert names(CasesConfig(table=table, part="validation")) == ["np1", "np2", "np3"]


def test_a_part_without_a_case_and_a_word_that_is_no_part_are_refused(folder):
    table = write(folder / "train.csv", *SPLIT)
    (line,) = complaints(CasesConfig(table=table, part="validation"))
    assert line.startswith("[no-cases] ")
    write(table, SPLIT[0], SPLIT[1].replace("training", "train"))
    assert complaints(CasesConfig(table=table)) == [
        f"[table-split] {table}:2: got 'train'; expected training, validation, test or nothing in "
        "the column split; fix: correct the cell, or leave it empty for a case that is not used"
    ]


def test_only_the_cases_whose_names_are_listed_are_used(folder):
    rows = ("a,p1/FLAIR.nii.gz", "b,p2/FLAIR.nii.gz", "c,absent.nii.gz")
    table = write(folder / "train.csv", "case,channel_FLAIR", *rows)
    only = write(folder / "only.txt", "# two", "b", "", "a ")
    config = CasesConfig(table=table, only=only)
    assert [(c.name, c.missing) for c in list_cases(config, ["FLAIR"])] == [("a", ()), ("b", ())]
    write(only, "bb", "a")
    with pytest.raises(DeepsegError) as refusal:
        list_cases(config, ["FLAIR"])
    assert str(refusal.value) == (
        f"[case-unknown] {only}:1: got the name 'bb'; expected the name of a case; fix: correct or "
        "remove the line; did you mean 'b'?"
    )
    write(only, "#")
    with pytest.raises(DeepsegError) as refusal:
        list_cases(config, ["FLAIR"])
    assert str(refusal.value) == (
        f"[no-cases] {only}: got no name; expected the name of at least one case; fix: add it"
    )


def test_a_column_tells_whose_cases_they_are(folder):
    rows = ("a,anna,p1/FLAIR.nii.gz", "b,-,p2/FLAIR.nii.gz")
    table = write(folder / "train.csv", "case,patient,channel_FLAIR", *rows)
    cases = list_cases(CasesConfig(table=table), ["FLAIR"])
    assert [case.patient for case in cases] == ["anna", None]


def test_one_4d_image_for_all_channels_holds_a_volume_for_each(folder):
    image = nibabel.Nifti1Image(np.zeros((4, 3, 2, 2), np.uint8), np.eye(4))
    nibabel.save(image, folder / "both.nii.gz")
    config = of_table(folder, "channel_T1c,channel_FLAIR", "both.nii.gz,both.nii.gz")
    (case,) = list_cases(config, CHANNELS)
    assert case.images == ((folder / "both.nii.gz", 1), (folder / "both.nii.gz", 0))


def test_weights_are_in_the_order_of_their_numbers(folder):
    kinds = ["FLAIR", "T1c", "labels", "roi"] * 3
    header = ",".join(f"weights_{10 - i}" for i in range(10))
    cells = ",".join(f"p1/{kind}.nii.gz" for kind in kinds[:10])
    config = of_table(folder, f"channel_T1,{header}", f"p2/T1c.nii.gz,{cells}")
    maps = list_cases(config, ["T1"])[0].weight_maps
    assert [path.name.split(".")[0] for path in maps] == kinds[:10][::-1]


def test_all_faults_of_a_table_come_at_once(folder):
    config = of_table(
        folder,
        "case,channel_FLAIR,chanel_T1c,labels,ground_truth,weights_2",
        "a,p1/FLAIR.nii.gz,,,,",
        "b,p2/FLAIR.nii,,,,",
        "c,p3/FLAIR.nii.gz,,",
    )
    table = folder / "train.csv"
    known = "case, channel_NAME, labels, roi, split, patient, weights_1, weights_2, …"
    assert complaints(config) == [
        f"[table-column] {table}:1: got the column 'chanel_T1c'; expected {known}; "
        "fix: rename or remove it; did you mean 'channel_T1c'?",
        f"[table-column] {table}:1: got the column 'weights_2'; expected {known}; "
        "fix: rename or remove it; did you mean 'weights_1'?",
        f"[table-column] {table}:1: got the column 'labels' 2 times; expected every column once; "
        "fix: remove the others (case, labels and roi are prediction_filename, ground_truth and "
        "roi_mask of DeepMedic)",
        f"[channel-missing] {table}:1: got no channel 'T1c'; expected the channels of the model: "
        "FLAIR, T1c; fix: add this channel",
        f"[table-cells] {table}:4: got 4 cells; expected 6, one per column; fix: leave a cell "
        "empty where there is no file, and put quotes around a path that holds the separator",
        f"[file-missing] {table}:3 channel_FLAIR p2/FLAIR.nii: got no such file; expected an image "
        "file; fix: correct the path; did you mean 'FLAIR.nii.gz'?",
    ]


def test_a_quote_that_never_ends_is_refused(folder):
    config = of_table(folder, TABLE[0], '"n1,p1/FLAIR.nii.gz', *TABLE[2:])
    assert complaints(config) == [
        f"[table-syntax] {folder / 'train.csv'}:4: got unexpected end of data; expected "
        "comma-separated values; quotes open and close around a whole cell; fix: correct the "
        "quotes of this line, or of the lines before it"
    ]


@pytest.mark.parametrize("lines", [(), ("# a",), TABLE[:1]], ids=["empty", "comment", "header"])
def test_a_table_without_cases_is_refused(folder, lines):
    (complaint,) = complaints(of_table(folder, *lines))
    assert complaint.startswith(f"[no-cases] {folder / 'train.csv'}: got no case; ")


def test_a_name_in_two_rows_is_refused(folder):
    config = of_table(folder, TABLE[0], TABLE[1], TABLE[2].replace("np2", "np1"))
    table = folder / "train.csv"
    assert complaints(config) == [
        f"[case-name-twice] {table}:3 case: got the name 'np1', as in {table}:2 case; expected a "
        "name of its own; fix: rename one of them"
    ]


# ---- Dataset folders ----


def dataset(folder, content, *present):
    for path in present:
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    (folder / "dataset.json").write_text(json.dumps(content, indent=1))
    return CasesConfig(dataset=folder)


def listed(*names, channels=("T1",)):
    return {
        "modality": {str(i): name for i, name in enumerate(channels)},
        "training": [
            {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names
        ],
        "test": [f"./imagesTs/{n}.nii.gz" for n in names],
    }


@pytest.mark.parametrize("named", ["", "dataset.json"], ids=["the folder", "the file in it"])
def test_a_folder_of_the_decathlon_lists_its_cases(tmp_path, named):
    dataset(
        tmp_path,
        listed("la_1", "la_2"),
        "imagesTr/la_1.nii.gz",
        "imagesTr/la_2.nii.gz",
        "labelsTr/la_1.nii.gz",
        "labelsTr/la_2.nii.gz",
        "imagesTs/la_1.nii.gz",
        "imagesTs/la_2.nii.gz",
    )
    _, case = list_cases(CasesConfig(dataset=tmp_path / named), ["T1"])
    assert case.name == "la_2"
    assert files([case]) == [
        ((tmp_path / "imagesTr/la_2.nii.gz",), tmp_path / "labelsTr/la_2.nii.gz", None, ())
    ]
    assert case.where == f"{tmp_path / 'dataset.json'}:11"
    lines = (tmp_path / "dataset.json").read_text().splitlines()
    assert lines[10] == '   "image": "./imagesTr/la_2.nii.gz",'

    _, case = list_cases(CasesConfig(dataset=tmp_path / named, part="test"), ["T1"])
    assert files([case]) == [((tmp_path / "imagesTs/la_2.nii.gz",), None, None, ())]


NNUNET_2 = {"channel_names": {"1": "T1c", "0": "FLAIR"}, "file_ending": ".nii", "labels": {}}
FOUR_FILES = [f"images{part}/b_000{i}.nii" for part in ("Tr", "Ts") for i in range(2)]


@pytest.mark.parametrize(
    ("channels", "order"),
    [(["flair", "t1c"], (0, 1)), (["T1c", "FLAIR"], (1, 0)), (["channel1", "channel2"], (0, 1))],
    ids=["the order of the dataset", "another order", "a model without names of channels"],
)
def test_a_folder_of_nnunet_2_has_the_cases_that_lie_there(tmp_path, channels, order):
    config = dataset(tmp_path, NNUNET_2, *FOUR_FILES, "labelsTr/b.nii", "imagesTr/._b_0000.nii")
    (case,) = list_cases(config, channels)
    images = tuple(tmp_path / f"imagesTr/b_000{i}.nii" for i in order)
    assert files([case]) == [(images, tmp_path / "labelsTr/b.nii", None, ())]
    assert (case.name, case.where) == ("b", str(tmp_path / "imagesTr"))


def test_the_cases_that_nnunet_2_lists_are_those_that_are_taken(tmp_path):
    more = {
        "dataset": {
            "x": {"images": ["imagesTr/b_0000.nii", "imagesTr/b_0001.nii"], "label": "l/b.nii"},
            "y": {"images": ["imagesTs/b_0000.nii", str(tmp_path / "imagesTs/b_0001.nii")]},
        }
    }
    config = dataset(tmp_path, NNUNET_2 | more, *FOUR_FILES, "l/b.nii", "imagesTr/c_0000.nii")
    first, second = list_cases(config, CHANNELS)
    assert (first.name, second.name) == ("x", "y")
    assert files([first, second]) == [
        (
            tuple(tmp_path / f"imagesTr/b_000{i}.nii" for i in range(2)),
            tmp_path / "l/b.nii",
            None,
            (),
        ),
        (tuple(tmp_path / f"imagesTs/b_000{i}.nii" for i in range(2)), None, None, ()),
    ]
    line = int(second.where.split(":")[-1])
    assert '"y"' in (tmp_path / "dataset.json").read_text().splitlines()[line - 1]
    tests = list_cases(CasesConfig(dataset=tmp_path, part="test"), CHANNELS)
    assert [case.name for case in tests] == ["b"]


SWAPPED = {"background": 0, "core": 1, "Rim tissue": 2}
CLASSES = ["background", "rim_tissue", "core"]


@pytest.mark.parametrize(
    ("labels", "label_map", "got", "fix"),
    [
        pytest.param(
            SWAPPED, {}, "1 is core, 2 is rim_tissue", "{1: 2, 2: 1}", id="names and their numbers"
        ),
        pytest.param(
            {"0": "background", "1": "core", "2": "rim tissue"},
            {7: 0},
            "1 is core, 2 is rim_tissue",
            "{1: 2, 2: 1, 7: 0}",
            id="numbers and their names",
        ),
        pytest.param(SWAPPED, {1: 2}, "2 is rim_tissue", "{1: 2, 2: 1}", id="half a map"),
        pytest.param(
            {"background": 0, "necrosis": 1, "core": 2, "rim_tissue": 4},
            {},
            "4 is rim_tissue",
            "{4: 1}",
            id="a gap",
        ),
        pytest.param(
            {"background": 0, "rim tissue": [1, 3], "core": [2]},
            {},
            "3 is rim_tissue",
            "{3: 1}",
            id="a region of two labels",
        ),
    ],
)
def test_labels_that_mean_other_classes_are_refused_with_the_map(
    tmp_path, labels, label_map, got, fix
):
    dataset(tmp_path, NNUNET_2 | {"labels": labels}, *FOUR_FILES, "labelsTr/b.nii")
    config = CasesConfig(dataset=tmp_path, label_map=label_map)
    with pytest.raises(DeepsegError) as refusal:
        case_list(config, CHANNELS, classes=CLASSES)
    assert str(refusal.value) == (
        f"[dataset-labels] {tmp_path / 'dataset.json'} labels: got labels of which {got}; expected "
        "the numbers of the model's classes: 0 background, 1 rim_tissue, 2 core; "
        f"fix: set 'label_map: {fix}'"
    )


def test_regions_that_overlap_are_no_classes(tmp_path):
    labels = {"background": 0, "rim tissue": [1, 2], "core": 2}
    dataset(tmp_path, NNUNET_2 | {"labels": labels}, *FOUR_FILES, "labelsTr/b.nii")
    with pytest.raises(DeepsegError) as refusal:
        case_list(CasesConfig(dataset=tmp_path), CHANNELS, classes=CLASSES)
    assert str(refusal.value) == (
        f"[dataset-labels] {tmp_path / 'dataset.json'} labels: got label 2 in the regions rim "
        "tissue and core; expected one class for every label, because the classes of a model "
        "exclude each other; fix: use a model with a class for every label, and score regions as "
        "groups; or say in label_map which class each label is"
    )


@pytest.mark.parametrize(
    ("labels", "label_map", "classes"),
    [
        pytest.param(SWAPPED, {1: 2, 2: 1}, CLASSES, id="the map that was proposed"),
        pytest.param(SWAPPED, {1: 1, 2: 2}, CLASSES, id="a map that says that names are wrong"),
        pytest.param(SWAPPED, {}, ["background", "class1", "class2"], id="a model without names"),
        pytest.param({"background": 0, "Rim-Tissue": 1, "core": 2}, {}, CLASSES, id="alike"),
        pytest.param(["rim", "core"], {}, CLASSES, id="a list"),
    ],
)
def test_labels_that_mean_the_classes_of_their_numbers_are_taken(
    tmp_path, labels, label_map, classes
):
    dataset(tmp_path, NNUNET_2 | {"labels": labels}, *FOUR_FILES, "labelsTr/b.nii")
    config = CasesConfig(dataset=tmp_path, label_map=label_map)
    listed = case_list(config, CHANNELS, classes=classes)
    assert listed.warnings == ()
    assert [case.label_map for case in listed.cases] == [tuple(sorted(label_map.items()))]


def test_names_of_labels_that_the_model_does_not_know_are_told(tmp_path):
    labels = {"background": 0, "liver": 1, "tumour": 2, "ignore": 3}
    dataset(tmp_path, NNUNET_2 | {"labels": labels}, *FOUR_FILES, "labelsTr/b.nii")
    listed = case_list(CasesConfig(dataset=tmp_path), CHANNELS, classes=CLASSES)
    assert listed.warnings == (
        f"{tmp_path / 'dataset.json'}: its labels have other names than the model's classes: 1 is "
        "'liver' there and 'rim_tissue' in the model, 2 is 'tumour' there and 'core' in the model",
    )


def test_the_label_that_nnunet_ignores_is_ignored(tmp_path):
    labels = {"background": 0, "rim_tissue": 1, "core": 2, "ignore": 3}
    dataset(tmp_path, NNUNET_2 | {"labels": labels}, *FOUR_FILES, "labelsTr/b.nii")
    (case,) = case_list(CasesConfig(dataset=tmp_path), CHANNELS, classes=CLASSES).cases
    assert case.label_map == ((3, -1),)
    config = CasesConfig(dataset=tmp_path, label_map={3: 0, 255: "ignore"})
    assert case_list(config, CHANNELS, classes=CLASSES).cases[0].label_map == ((3, 0), (255, -1))


def test_channels_are_numbered_without_a_gap(tmp_path):
    config = dataset(
        tmp_path, NNUNET_2 | {"channel_names": {"0": "T1c", "2": "FLAIR"}}, *FOUR_FILES
    )
    (complaint,) = complaints(config)
    assert complaint.startswith(
        f"[dataset-content] {tmp_path / 'dataset.json'}: got Value error, Channels should be "
        "numbered 0 to 1 at channel_names; "
    )


def test_labels_of_the_test_part_are_taken_where_there_are_some(tmp_path):
    more = ["imagesTs/c_0000.nii", "imagesTs/c_0001.nii", "labelsTs/c.nii"]
    dataset(tmp_path, NNUNET_2, *FOUR_FILES, *more)
    cases = list_cases(CasesConfig(dataset=tmp_path, part="test"), CHANNELS)
    assert [case.labels for case in cases] == [None, tmp_path / "labelsTs/c.nii"]


def test_a_folder_of_nnunet_1_has_a_file_per_channel_under_the_name_listed(tmp_path):
    config = dataset(
        tmp_path,
        listed("a", channels=CHANNELS),
        "labelsTr/a.nii.gz",
        "imagesTr/a_0000.nii.gz",
        "imagesTr/a_0001.nii.gz",
    )
    (case,) = list_cases(config, CHANNELS)
    assert case.name == "a"
    assert case.channels == tuple(tmp_path / f"imagesTr/a_000{i}.nii.gz" for i in range(2))


def test_an_entry_may_list_the_file_of_every_channel(tmp_path):
    content = listed(channels=CHANNELS) | {"training": [{"image": ["a_0000.nii", "a_0001.nii"]}]}
    (case,) = list_cases(dataset(tmp_path, content, "a_0000.nii", "a_0001.nii"), CHANNELS)
    assert (case.name, case.channels) == ("a", (tmp_path / "a_0000.nii", tmp_path / "a_0001.nii"))


def decathlon(folder, volumes, channels):
    """A folder of the Decathlon whose images have so many volumes, by the name of their case."""
    files = [f"{kind}Tr/{name}.nii.gz" for name in volumes for kind in ("images", "labels")]
    config = dataset(folder, listed(*volumes, channels=channels), *files)
    for name, count in volumes.items():
        array = np.zeros((4, 3, 2, count)[: 3 + (count > 1)], np.uint8)
        nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), folder / f"imagesTr/{name}.nii.gz")
    return config


@pytest.mark.parametrize(
    ("channels", "volumes"),
    [
        (["FLAIR", "T1w", "t1gd"], (0, 1, 2)),
        (["t1gd", "FLAIR", "T1w"], (2, 0, 1)),
        (["channel1", "channel2", "channel3"], (0, 1, 2)),
    ],
    ids=["the order of the dataset", "another order", "a model without names of channels"],
)
def test_a_4d_image_of_the_decathlon_has_a_volume_per_channel(tmp_path, channels, volumes):
    config = decathlon(tmp_path, {"a": 3, "b": 3}, ["FLAIR", "T1w", "T1gd"])
    _, case = list_cases(config, channels)
    assert case.channels == (tmp_path / "imagesTr/b.nii.gz",) * 3
    assert case.volumes == volumes
    assert case.images == tuple((tmp_path / "imagesTr/b.nii.gz", k) for k in volumes)


def test_a_file_per_channel_has_no_volumes(folder):
    case = list_cases(of_lists(folder), CHANNELS)[0]
    assert case.volumes == ()
    assert case.images == ((folder / "p1/FLAIR.nii.gz", None), (folder / "p1/T1c.nii.gz", None))


@pytest.mark.parametrize(
    ("volumes", "got"),
    [
        ({"a": 2, "b": 1}, "1 volume for 2 channels (FLAIR, T1c) in 1 case, the first b"),
        ({"a": 3, "b": 4}, "3 volumes for 2 channels (FLAIR, T1c) in 2 cases, the first a"),
    ],
)
def test_an_image_has_as_many_volumes_as_there_are_channels(tmp_path, volumes, got):
    assert complaints(decathlon(tmp_path, volumes, CHANNELS)) == [
        f"[dataset-images] {tmp_path / 'dataset.json'}: got {got}; expected a file per channel, or "
        "one 4D file with a volume per channel; fix: correct the channels or the images in "
        "dataset.json"
    ]


def test_what_is_wrong_with_a_4d_image_is_left_to_the_checks(tmp_path):
    config = decathlon(tmp_path, {"a": 2}, CHANNELS)
    (tmp_path / "imagesTr/a.nii.gz").write_bytes(b"")
    assert list_cases(config, CHANNELS)[0].volumes == (0, 1)


def test_files_are_as_many_as_channels_or_one(tmp_path):
    content = listed(channels=CHANNELS) | {"training": [{"image": ["a.nii", "b.nii", "c.nii"]}]}
    (complaint,) = complaints(dataset(tmp_path, content, "a.nii", "b.nii", "c.nii"))
    assert complaint.startswith(
        f"[dataset-images] {tmp_path / 'dataset.json'}: got 3 image files for 2 channels (FLAIR, "
        "T1c) in 1 case, the first a; expected a file per channel, or "
    )


def test_all_faults_of_a_dataset_come_at_once(tmp_path):
    config = dataset(
        tmp_path, NNUNET_2 | {"channel_names": {"0": "FLAIR", "1": "T2"}}, "imagesTr/b_0000.nii"
    )
    expected = "expected the channels of the model: FLAIR, T1c"
    file = tmp_path / "dataset.json"
    assert complaints(config) == [
        f"[channel-unknown] {file}: got channel 'T2'; {expected}; fix: rename or remove it",
        f"[channel-missing] {file}: got no channel 'T1c'; {expected}; fix: add this channel",
        f"[file-missing] {tmp_path / 'imagesTr'} imagesTr/b_0001.nii: got no such file; expected "
        "an image file; fix: correct the path; did you mean 'b_0000.nii'?",
        f"[file-missing] {tmp_path / 'imagesTr'} labelsTr/b.nii: got no folder labelsTr in "
        f"{tmp_path}; expected an image file; fix: correct the path",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param('{\n"a": 1,\n}', "[dataset-syntax] {file}:3 column 1: got ", id="comma"),
        pytest.param("[" * 200_000, "[dataset-syntax] {file}: got too many levels", id="depth"),
        pytest.param("[]", "[dataset-content] {file}: got ", id="no mapping"),
        pytest.param(
            "{}", "[dataset-content] {file}: got Field required at channel_names; ", id="no names"
        ),
        pytest.param(
            '{"modality": {"0": "T1"}, "training": [{"image": 1}]}',
            "[dataset-content] {file}: got Input should be a valid string at training.0.image",
            id="a number for a path",
        ),
        pytest.param(
            '{"modality": {"0": "T1"}}',
            "[no-cases] {folder}: got no case in the part 'training';",
            id="no cases",
        ),
    ],
)
def test_a_broken_dataset_file_is_refused(tmp_path, text, complaint):
    file = tmp_path / "dataset.json"
    file.write_text(text)
    result = complaints(CasesConfig(dataset=tmp_path), ["T1"])[0]
    assert result.startswith(complaint.format(file=file, folder=tmp_path))


def test_a_folder_without_a_dataset_file_is_refused(tmp_path):
    (complaint,) = complaints(CasesConfig(dataset=tmp_path))
    assert complaint.startswith(f"[cases-file-missing] {tmp_path / 'dataset.json'}: got no such")
