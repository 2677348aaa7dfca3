"""Cases of a BIDS tree: found by the names of files, and refused where names do not decide."""

import pytest

from deepseg.config.cases import CasesConfig
from deepseg.data.cases.case import case_list
from deepseg.errors import DeepsegError

CHANNELS = ("T1w", "FLAIR")


@pytest.fixture
def tree(tmp_path):
    """Makes empty files; gives the root."""

    def make(*names):
        for name in names:
            file = tmp_path / "study" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return tmp_path / "study"

    return make


def listed(root, channels=CHANNELS, patterns=None, **settings):
    """Name, channels, labels and ROI of every case, relative to the root; and the warnings."""
    cases = case_list(CasesConfig(bids=root, channels=patterns, **settings), channels)

    def relative(path):
        return None if path is None else str(path.relative_to(root))

    rows = {
        case.name: (*map(relative, case.channels), relative(case.labels), relative(case.roi))
        for case in cases.cases
    }
    return rows, [text.replace(str(root), "ROOT") for text in cases.warnings]


def refusal(root, **settings):
    with pytest.raises(DeepsegError) as error:
        listed(root, **settings)
    return str(error.value).replace(str(root), "ROOT").splitlines()


def test_participants_with_and_without_sessions_are_cases(tree):
    root = tree(
        "sub-02/anat/sub-02_T1w.nii.gz",
        "sub-02/anat/sub-02_FLAIR.nii.gz",
        "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii",
        "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
        "sub-01/ses-a/func/sub-01_ses-a_task-rest_bold.nii.gz",
        ".hidden/sub-03_T1w.nii.gz",
    )
    assert listed(root) == (
        {
            "sub-01_ses-b": (
                "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz",
                "sub-01/ses-b/anat/sub-01_ses-b_FLAIR.nii",
                None,
                None,
            ),
            "sub-02": (
                "sub-02/anat/sub-02_T1w.nii.gz",
                "sub-02/anat/sub-02_FLAIR.nii.gz",
                None,
                None,
            ),
        },
        [],
    )


def test_patterns_name_entities_and_labels_and_masks_lie_in_derivatives(tree):
    root = tree(
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_ce-gd_T1w.nii.gz",
        "derivatives/manual/sub-1/anat/sub-1_label-lesion_mask.nii.gz",
        "derivatives/manual/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
        "derivatives/prep/sub-1/anat/sub-1_desc-preproc_T1w.nii.gz",
    )
    rows, warnings = listed(
        root,
        ("T1", "T1c"),
        patterns={"t1": "T1w", "T1c": "ce-gd_T1w"},
        labels="label-lesion_mask",
        roi="desc-brain_mask",
    )
    assert rows == {
        "sub-1": (
            "sub-1/anat/sub-1_T1w.nii.gz",
            "sub-1/anat/sub-1_ce-gd_T1w.nii.gz",
            "derivatives/manual/sub-1/anat/sub-1_label-lesion_mask.nii.gz",
            "derivatives/manual/sub-1/anat/sub-1_desc-brain_mask.nii.gz",
        )
    }
    assert warnings == []


def test_what_only_some_cases_have_is_told_once(tree):
    root = tree(
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_FLAIR.nii.gz",
        "sub-1/anat/sub-1_dseg.nii.gz",
        "sub-2/anat/sub-2_T1w.nii.gz",
        "sub-3/anat/sub-3_T1w.nii.gz",
    )
    rows, warnings = listed(root, labels="dseg")
    assert rows["sub-3"] == ("sub-3/anat/sub-3_T1w.nii.gz", None, None, None)
    assert warnings == [
        "ROOT: 2 of 3 cases have no FLAIR: sub-2, sub-3",
        "ROOT: 2 of 3 cases have no labels: sub-2, sub-3",
    ]


def test_several_files_that_nothing_tells_apart_are_refused(tree):
    root = tree(*(f"sub-1/anat/sub-1_run-{run}_T1w.nii.gz" for run in (1, 2)))
    assert refusal(root, channels=("T1w",)) == [
        "[bids-ambiguous] ROOT/sub-1: got 2 files for T1w: sub-1_run-1_T1w.nii.gz, "
        "sub-1_run-2_T1w.nii.gz; expected one that is called 'T1w'; fix: name an entity that "
        "decides, such as run-1, or list the cases in a table"
    ]
    rows, _ = listed(root, ("T1w",), {"T1w": "run-2_T1w"})
    assert rows["sub-1"][0] == "sub-1/anat/sub-1_run-2_T1w.nii.gz"


def test_patterns_that_no_file_has_and_unknown_participants_are_told_together(tree):
    root = tree("sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_acq-3D_FLAIR.nii.gz")
    assert refusal(root, participants=["sub-01", "1"], labels="label-lesion_mask") == [
        "[bids-participant] ROOT: got the participant sub-1; expected one with images in ROOT; "
        "fix: correct the label, in quotes if it is a number; did you mean '01'?",
        "[bids-files] ROOT: got no file for labels, called 'label-lesion_mask'; expected a suffix, "
        "with entities where they decide, such as T1w, acq-3D_FLAIR; fix: correct the pattern of "
        "labels",
    ]


def test_channels_are_those_of_the_model(tree):
    root = tree("sub-01/anat/sub-01_T1w.nii.gz")
    with pytest.raises(DeepsegError) as error:
        case_list(CasesConfig(bids=root, channels={"T1": "T1w", "T2": "T2w"}), ("T1", "FLAIR"))
    assert [(p.code, p.got) for p in error.value.problems] == [
        ("channel-unknown", "channel 'T2'"),
        ("channel-missing", "no channel 'FLAIR'"),
    ]


def test_a_part_is_that_of_the_participants_table(tree):
    root = tree(*(f"sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in (1, 2, 3)))
    (root / "participants.tsv").write_text(
        "participant_id\tsplit\nsub-1\ttraining\nsub-2\ttest\nsub-3\ttraining\n"
    )
    assert list(listed(root, ("T1w",))[0]) == ["sub-1", "sub-3"]
    assert list(listed(root, ("T1w",), part="test")[0]) == ["sub-2"]


@pytest.mark.parametrize("name", [None, "anat/T1w.nii.gz"])
def test_a_folder_that_is_no_tree_is_refused(tree, tmp_path, name):
    root = tree(*[name] if name else [])
    got = "no image sub-…" if name else "no such folder"
    assert refusal(root) == [
        f"[bids-tree] ROOT: got {got}; expected a BIDS tree, with NIfTI files such as "
        "sub-01/anat/sub-01_T1w.nii.gz; fix: correct the path"
    ]


@pytest.mark.parametrize(
    ("settings", "got"),
    [
        ({"table": "a.csv"}, "table and bids"),
        ({"weight_maps": ["w.txt"]}, "weight_maps beside bids"),
        ({"channels": ["T1w"]}, "channels without names beside bids"),
    ],
)
def test_keys_that_do_not_go_with_a_tree_are_refused(settings, got):
    with pytest.raises(ValueError, match=got):
        CasesConfig.model_validate({"bids": "study", **settings})


def test_participants_go_with_a_tree_only():
    with pytest.raises(ValueError, match="participants beside table"):
        CasesConfig.model_validate({"table": "a.csv", "participants": ["sub-01"]})
