"""DICOM-SEG: every labelled voxel is where it was in the patient, however the series lies."""

import numpy as np
import pydicom
import pytest

from deepseg.data.images.dicom.segmentation_object import (
    SegmentName,
    missing_extra,
    write_dicom_seg,
)
from deepseg.data.images.grid import Geometry
from deepseg.data.images.volumes import read_geometry
from deepseg.errors import DeepsegError
from tests.dicom_files import write_frames, write_series

SEGMENTS = [SegmentName("rim", (230, 85, 13)), SegmentName("core of it", (86, 180, 233))]
SHAPE = (5, 4, 3)
COS, SIN = np.cos(0.3), np.sin(0.3)

SERIES = {
    "axial": {},
    "downwards": {"step": (0, 0, -4)},
    "turned rows": {"row": (0, 1, 0), "column": (-1, 0, 0)},
    "sagittal": {"row": (0, 1, 0), "column": (0, 0, -1), "step": (-4, 0, 0)},
    "oblique": {
        "row": (COS, SIN, 0),
        "column": (0, 0, 1),
        "step": (4 * SIN, -4 * COS, 0),
    },
}


def voxels(shape=SHAPE):
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def labels(shape=SHAPE):
    array = np.zeros(shape, np.int16)
    array[1, 0, 0] = array[4, 3, 2] = array[2, 1, 2] = 1
    array[0, 2, 1] = array[3, 2, 1] = array[3, 0, 2] = 2
    return array


def places_of(array, affine, label):
    """RAS millimetres of the voxels with a label, as a sorted list."""
    indices = np.argwhere(array == label)
    return sorted(map(tuple, np.round(indices @ affine[:3, :3].T + affine[:3, 3], 3).tolist()))


def places_in(path, label):
    """RAS millimetres of the voxels of a segment, from the file's own words on each frame."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    spacing = shared.PixelMeasuresSequence[0].PixelSpacing
    result = []
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber != label:
            continue
        corner = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        orientation = shared.get("PlaneOrientationSequence") or groups.PlaneOrientationSequence
        cosines = np.array(orientation[0].ImageOrientationPatient, float)
        for row, column in np.argwhere(frame):
            lps = corner + cosines[:3] * spacing[1] * column + cosines[3:] * spacing[0] * row
            result.append(tuple(np.round(lps * (-1, -1, 1), 3).tolist()))
    return sorted(result)


@pytest.mark.parametrize("settings", SERIES.values(), ids=SERIES)
def test_every_voxel_is_where_it_was(tmp_path, settings):
    folder = write_series(tmp_path / "series", voxels(), **settings)
    geometry = read_geometry(folder)
    write_dicom_seg(tmp_path / "seg.dcm", labels(), geometry, folder, SEGMENTS)
    for label in (1, 2):
        expected = places_of(labels(), geometry.affine, label)
        assert places_in(tmp_path / "seg.dcm", label) == expected


def test_labels_with_other_axes_are_turned_to_those_of_the_series(tmp_path):
    folder = write_series(tmp_path / "series", voxels(), **SERIES["oblique"])
    affine = read_geometry(folder).affine
    # X and Z change places, and the new X runs backwards.
    turned = labels().transpose(2, 1, 0)[::-1]
    axes = affine @ np.array([[0, 0, 1, 0], [0, 1, 0, 0], [-1, 0, 0, 2], [0, 0, 0, 1]])
    geometry = Geometry(turned.shape, axes)
    write_dicom_seg(tmp_path / "seg.dcm", turned, geometry, folder, SEGMENTS)
    for label in (1, 2):
        assert places_in(tmp_path / "seg.dcm", label) == places_of(labels(), affine, label)


def test_frames_of_an_enhanced_file_may_have_any_order(tmp_path):
    file = write_frames(tmp_path / "series.dcm", voxels(), [(0, 0, z) for z in (8, 0, 4)])
    geometry = read_geometry(file)
    write_dicom_seg(tmp_path / "seg.dcm", labels(), geometry, file, SEGMENTS)
    for label in (1, 2):
        expected = places_of(labels(), geometry.affine, label)
        assert places_in(tmp_path / "seg.dcm", label) == expected


def test_it_names_classes_program_and_series(tmp_path):
    folder = write_series(tmp_path / "series", voxels())
    write_dicom_seg(tmp_path / "seg.dcm", labels(), read_geometry(folder), folder, SEGMENTS)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    named = [(item.SegmentNumber, item.SegmentLabel) for item in seg.SegmentSequence]
    assert named == [(1, "rim"), (2, "core of it")]
    assert (seg.Modality, seg.PatientID, seg.Manufacturer) == ("SEG", "anna", "deepseg")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.10"
    assert seg.StudyInstanceUID == "1.2.3.1"


def test_equal_labels_have_one_identity_and_others_another(tmp_path):
    folder = write_series(tmp_path / "series", voxels())
    geometry = read_geometry(folder)
    uids = []
    for array in (labels(), labels(), np.zeros(SHAPE, np.int16)):
        write_dicom_seg(tmp_path / "seg.dcm", array, geometry, folder, SEGMENTS)
        uids.append(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID)
    assert uids[0] == uids[1] != uids[2]


@pytest.mark.parametrize(
    ("shape", "shift"), [((5, 4, 4), 0), (SHAPE, 0.5)], ids=["more slices", "half a voxel beside"]
)
def test_labels_on_another_grid_are_refused(tmp_path, shape, shift):
    folder = write_series(tmp_path / "series", voxels())
    affine = read_geometry(folder).affine.copy()
    affine[0, 3] += shift
    geometry = Geometry(shape, affine)
    with pytest.raises(DeepsegError) as error:
        write_dicom_seg(tmp_path / "seg.dcm", np.zeros(shape, int), geometry, folder, SEGMENTS)
    assert str(error.value) == (
        f"[dicom-grid] got labels on another grid than that of the DICOM series {folder}; "
        "expected labels on the voxels of the series; fix: segment the series itself, as the first "
        "channel"
    )
    assert not (tmp_path / "seg.dcm").exists()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    (problem,) = missing_extra("save.dicom_seg")
    assert str(problem) == (
        "[dicom-extra-missing] got save.dicom_seg without the package highdicom; expected the "
        "package, which writes DICOM-SEG; fix: pip install 'deepseg-pathways[dicom]'"
    )
