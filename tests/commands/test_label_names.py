"""Names of labels and DICOM-SEG beside the results of ``-test`` and ``-segment``."""

import shutil

import nibabel
import numpy as np
import pydicom
import pytest

from tests.dicom_files import write_series

T1, FLAIR, ROI = "data/d/T1.nii.gz", "data/d/FLAIR.nii.gz", "data/d/roi.nii.gz"
LABEL_FILES = {"dseg.json", "dseg.tsv", "itksnap_labels.txt", "slicer_labels.ctbl"}
IMAGES = (f"T1={T1}", f"FLAIR={FLAIR}", f"roi={ROI}")


def names(folder):
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def series(place):
    """The case d as two oblique DICOM series; gives their words on the command line."""
    row, column = (0.8, 0.6, 0.0), (0.0, 0.0, -1.0)
    for name in ("T1", "FLAIR"):
        write_series(
            place / f"dicom/{name}",
            place.array(f"d/{name}.nii.gz").astype(np.int16),
            spacing=(1.0, 2.0, 1.5),
            row=row,
            column=column,
            step=(0.9, -1.2, 0.0),
            series=f"1.2.3.{name == 'T1':d}1",
        )
    return "T1=dicom/T1", "FLAIR=dicom/FLAIR", "roi=nonzero"


def segment_places(path, label):
    """RAS millimetres of the voxels of a segment."""
    seg = pydicom.dcmread(path)
    shared = seg.SharedFunctionalGroupsSequence[0]
    rows_mm, columns_mm = shared.PixelMeasuresSequence[0].PixelSpacing
    cosines = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    places = set()
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == label:
            corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
            for row, column in np.argwhere(frame):
                lps = corner + cosines[:3] * columns_mm * column + cosines[3:] * rows_mm * row
                places.add(tuple(np.round(lps * (-1, -1, 1), 2).tolist()))
    return places


def volume_places(path, label):
    image = nibabel.load(path)
    indices = np.argwhere(np.asarray(image.dataobj) == label)
    points = indices @ image.affine[:3, :3].T + image.affine[:3, 3]
    return {tuple(np.round(point, 2).tolist()) for point in points}


def test_a_session_writes_them_once_and_sets_aside_what_others_wrote(model, place, command):
    place.edit("test.yaml", "  label_names: []\n", "")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    folder = place / "runs/results/predictions"
    assert names(folder) == LABEL_FILES | {"d_Segm.nii.gz"}
    assert (folder / "dseg.tsv").read_text() == (
        "index\tname\tcolor\n0\tbackground\t#000000\n1\trim\t#e6550d\n2\tcore\t#56b4e9\n"
    )
    before = (folder / "dseg.tsv").stat().st_mtime_ns
    (folder / "slicer_labels.ctbl").write_text("mine")
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert (folder / "slicer_labels.ctbl").read_text() != "mine"
    assert (place / "runs/results/set_aside/slicer_labels.ctbl").read_text() == "mine"
    assert command("-test", "test.yaml", "-model", model).warnings == []
    assert (folder / "dseg.tsv").stat().st_mtime_ns >= before


def test_a_session_that_wants_none_writes_none(model, place, command):
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert names(place / "runs/results/predictions") == {"d_Segm.nii.gz"}


def test_segmented_files_share_them_but_not_with_another_model(model, place, command, refused):
    assert command("-segment", model, *IMAGES, "-out", "out").returncode == 0
    shutil.move(place / "out/T1_Segm.nii.gz", place / "out/first.nii.gz")
    assert command("-segment", model, *IMAGES, "-out", "out").returncode == 0
    assert names(place / "out") == LABEL_FILES | {"T1_Segm.nii.gz", "first.nii.gz"}
    shutil.move(place / "out/T1_Segm.nii.gz", place / "out/second.nii.gz")
    (place / "out/dseg.tsv").write_text("index\tname\n0\tbackground\n1\tliver\n")
    assert refused("-segment", model, *IMAGES, "-out", "out") == [
        "[file-exists] out/dseg.tsv: got names of other labels, beside segmentations by another "
        "model; expected one model for a folder; fix: choose another -out"
    ]


def test_a_dicom_seg_holds_the_labels_of_the_segmentation(model, place, command, series):
    result = command("-segment", model, *series, "-out", "out", "-dicomSeg")
    assert (result.returncode, result.errors) == (0, [])
    for label in (1, 2):
        places = volume_places(place / "out/T1_Segm.nii.gz", label)
        assert segment_places(place / "out/T1_Segm.dcm", label) == places
        assert places
    seg = pydicom.dcmread(place / "out/T1_Segm.dcm")
    assert [item.SegmentLabel for item in seg.SegmentSequence] == ["rim", "core"]


def test_a_session_writes_a_dicom_seg_of_cases_from_dicom_only(model, place, command, series):
    place.write("data/test.csv", "case,channel_T1,channel_FLAIR\nd,../dicom/T1,../dicom/FLAIR\n")
    place.edit("test.yaml", "  pictures: false\n", "  pictures: false\n  dicom_seg: true\n")
    place.write("test.yaml", (place / "test.yaml").read_text() + "preparation: {roi: nonzero}\n")
    result = command("-test", "test.yaml", "-model", model)
    assert (result.returncode, result.errors) == (0, [])
    folder = place / "runs/results/predictions"
    places = volume_places(folder / "d_Segm.nii.gz", 1)
    assert segment_places(folder / "d_Segm.dcm", 1) == places
    before = (folder / "d_Segm.dcm").read_bytes()
    (folder / "d_Segm.dcm").unlink()  # a result that is missing is written again
    assert command("-test", "test.yaml", "-model", model).returncode == 0
    assert len((folder / "d_Segm.dcm").read_bytes()) == len(before)


def test_images_that_are_no_dicom_get_a_warning(model, command):
    result = command("-segment", model, *IMAGES, "-dicomSeg")
    assert result.returncode == 0
    assert result.warnings[-1] == (
        "WARNING -dicomSeg: a DICOM-SEG is written of cases whose images are DICOM series, not of "
        "others"
    )


def test_a_missing_package_ends_a_command_before_anything_is_computed(
    model, place, command, refused, monkeypatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    place.edit("test.yaml", "  pictures: false\n", "  pictures: false\n  dicom_seg: true\n")
    line = (
        "[dicom-extra-missing] {} without the package highdicom; expected the package, which "
        "writes DICOM-SEG; fix: pip install 'deepseg-pathways[dicom]'"
    )
    refusals = refused("-test", "test.yaml", "-model", model, session="results")
    assert refusals == [line.format("test.yaml: got save.dicom_seg")]
    refusals = refused("-segment", model, *IMAGES, "-dicomSeg")
    assert refusals == [line.format(f"{model}: got -dicomSeg")]
