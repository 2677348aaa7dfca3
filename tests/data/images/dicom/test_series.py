"""DICOM series: every voxel with its own value and place, or the true reason why not."""

import shutil

import numpy as np
import pytest

from deepseg.data.images.volumes import read_geometry, read_image, read_labels
from deepseg.errors import DeepsegError
from tests.dicom_files import RTSTRUCT, write_file, write_frames, write_series

SHAPE = (5, 4, 6)
SERIES = "series 7 (CT, UID 1.2.3.10, {} files)"
TO_RAS = np.diag([-1.0, -1, 1, 1])
SPLIT = "give each phase, echo or repetition a folder of its own, as a series of its own"
APART = "expected one stack of slices in one folder; fix: give each stack a folder of its own"


def ramp(shape=SHAPE):
    return np.arange(np.prod(shape)).reshape(shape)


def places(*heights):
    return [(0, 0, height) for height in heights]


def refusal_of(folder):
    """The whole message, the folder standing for itself as FOLDER; the header alone says it too."""
    messages = set()
    for read in (read_image, read_geometry):
        with pytest.raises(DeepsegError) as refusal:
            read(folder)
        messages.add(str(refusal.value).replace(str(folder), "FOLDER"))
    (message,) = messages
    return message


# ---- Intensities ----


@pytest.mark.parametrize(
    ("slopes", "intercepts", "signed"),
    [
        pytest.param([1, 100, 100, 100, 100, 100], [0] * 6, True, id="beyond 16 bits"),
        pytest.param([1] + [0.0041] * 5, [0] * 6, True, id="fractions after whole numbers"),
        pytest.param([0.5, 1, 2, 0.25, 3, 1e-6], [0, 0.5, -7, 1e4, 0, 0], True, id="all differ"),
        pytest.param([1] * 6, [0] + [-1024] * 5, False, id="negative after positive"),
        pytest.param([-1, 1, -2, 1, 1, 1], [0] * 6, False, id="inverted"),
    ],
)
def test_every_slice_is_scaled_as_its_own_header_says(tmp_path, slopes, intercepts, signed):
    stored = ramp() * 500 % 30011
    write_series(tmp_path / "a", stored, slopes=slopes, intercepts=intercepts, signed=signed)
    image = read_image(tmp_path / "a").array
    assert image.dtype == np.float32
    assert np.allclose(image, stored * slopes + intercepts, rtol=1e-6, atol=0)


def test_labels_of_a_series_are_whole_numbers(tmp_path):
    write_series(tmp_path / "a", ramp(), slopes=[1, 2, 1, 1, 1, 1])
    expected = ramp() * [1, 2, 1, 1, 1, 1]
    assert np.array_equal(read_labels(tmp_path / "a").array, expected)


# ---- Places ----


def test_slices_are_ordered_by_their_place_not_by_their_name_or_number(tmp_path):
    write_series(tmp_path / "a", ramp(), positions=places(12, 4, 0, 20, 8, 16))
    image = read_image(tmp_path / "a")
    assert np.array_equal(image.array, ramp()[:, :, [2, 1, 4, 0, 5, 3]])
    assert np.array_equal(image.geometry.affine, TO_RAS @ np.diag([2, 3, 4, 1]))
    assert image.warnings == ()


def test_an_oblique_series_lies_where_its_slices_lie(tmp_path):
    row, column, normal = np.array([(0.6, 0.8, 0), (0, 0, -1), (-0.8, 0.6, 0)])
    origin = np.array([10, 20, 30])
    positions = [origin + 4 * k * normal for k in range(6)]
    write_series(tmp_path / "a", ramp(), positions=positions, row=row, column=column)
    place = read_geometry(tmp_path / "a").affine @ [2, 1, 5, 1]
    expected = TO_RAS[:3, :3] @ (origin + 2 * 2 * row + 1 * 3 * column + 5 * 4 * normal)
    assert np.allclose(place[:3], expected)


def test_a_tilted_gantry_gives_a_sheared_grid_and_a_warning(tmp_path):
    write_series(tmp_path / "a", ramp(), step=(0, 3, 4))  # arctan(3 / 4) is 36.87 degrees
    image = read_image(tmp_path / "a")
    assert image.geometry.affine[:3, 2].tolist() == [0, -3, 4]
    assert np.array_equal(image.array, ramp())
    assert image.warnings == (
        "every slice is shifted against the one before, by 36.9 degrees (gantry tilt); "
        "read as a sheared grid",
    )


def test_one_slice_is_as_thick_as_it_says(tmp_path):
    write_series(tmp_path / "a", ramp()[:, :, :1], spacing=(2, 3, 5))
    assert read_geometry(tmp_path / "a").spacing_mm == (2, 3, 5)
    write_series(tmp_path / "b", ramp()[:, :, :1], tags={(0x18, 0x50): None})
    image = read_image(tmp_path / "b")
    assert image.geometry.spacing_mm == (2, 3, 1)
    assert image.warnings == ("the one slice does not say how thick it is; read as 1 mm",)


@pytest.mark.parametrize(
    ("jitter", "warnings"),
    [(0.05, ()), (0.2, ("slices lie up to 0.05 voxels beside equal distances",))],
)
def test_a_small_jitter_of_the_table_is_no_reason_to_refuse(tmp_path, jitter, warnings):
    write_series(tmp_path / "a", ramp(), positions=places(0, 4, 8 + jitter, 12, 16, 20))
    image = read_image(tmp_path / "a")
    assert np.array_equal(image.array, ramp())
    assert image.warnings == warnings


def test_every_other_slice_missing_is_seen_by_the_header(tmp_path):
    positions = places(0, 8, 16, 24, 32, 40)
    write_series(tmp_path / "a", ramp(), positions=positions, tags={(0x18, 0x88): ("DS", 4)})
    assert read_image(tmp_path / "a").warnings == (
        "slices lie 8 mm apart, but SpacingBetweenSlices is 4 mm; are slices missing?",
    )


# ---- What lies beside ----


def test_contours_reports_and_hidden_files_do_not_belong_to_the_series(tmp_path):
    folder = write_series(tmp_path / "a", ramp())
    tags = {(0x08, 0x60): ("CS", "RTSTRUCT"), (0x20, 0x0E): ("UI", "1.2.3.78")}
    write_file(folder / "contours.dcm", tags, sop_class=RTSTRUCT)
    write_file(folder / "report.dcm", tags, sop_class="1.2.840.10008.5.1.4.1.1.88.33")
    (folder / "._s001.dcm").write_bytes(b"\0\5\x16\7")
    (folder / "readme.txt").write_text("no DICOM")
    write_file(folder / "other.dcm", {(0x20, 0x0E): ("UI", "1.2.3.79")}, sop_class="1.2.3.4.5")
    image = read_image(folder)
    assert np.array_equal(image.array, ramp())
    assert image.warnings == ()


def test_a_copy_of_a_slice_is_read_once(tmp_path):
    folder = write_series(tmp_path / "a", ramp())
    shutil.copy(folder / "s003.dcm", folder / "s003 (1).dcm")
    image = read_image(folder)
    assert np.array_equal(image.array, ramp())
    assert image.warnings == ("s003 (1).dcm is a copy of s003.dcm; read once",)


def test_several_series_are_named(tmp_path):
    folder = write_series(tmp_path / "a", ramp())
    tags = {(0x20, 0x11): ("IS", 1), (0x08, 0x103E): ("LO", "localizer")}
    write_series(folder, ramp()[:, :, :1], name="loc", series="1.2.3.9", tags=tags)
    assert refusal_of(folder) == (
        "[dicom-series] FOLDER: got a folder with 2 DICOM series: "
        "series 1 (CT, 'localizer', UID 1.2.3.9, 1 file), series 7 (CT, UID 1.2.3.10, 6 files); "
        "expected an image file, or a folder with one DICOM series; "
        "fix: give each series its own folder"
    )


# ---- No stack ----


def test_a_missing_slice_is_named_by_its_neighbours(tmp_path):
    folder = write_series(tmp_path / "a", ramp())
    (folder / "s002.dcm").unlink()
    assert refusal_of(folder) == (
        f"[image-damaged] FOLDER: got 5 slices at unequal distances in {SERIES.format(5)}: 4 mm, "
        "but 8 mm between s001.dcm and s003.dcm; expected slices at equal distances; "
        "fix: add the missing slices or resample the series to equal distances"
    )


def test_a_film_of_one_place_is_no_stack(tmp_path):
    write_series(tmp_path / "a", ramp(), positions=places(*[3] * 6))
    assert refusal_of(tmp_path / "a") == (
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: 6 slices at 1 place, up to 6 at one, "
        "which differ in InstanceNumber: 1, 2, 3, 4, …; expected one slice at every place; "
        f"fix: {SPLIT}"
    )


def test_phases_of_one_series_are_told_apart(tmp_path):
    for phase in (0, 1):
        tags = {(0x18, 0x1060): ("DS", 400 * phase)}
        write_series(
            tmp_path / "a", ramp() + phase, name=f"p{phase}-", first=1 + 6 * phase, tags=tags
        )
    assert refusal_of(tmp_path / "a") == (
        f"[dicom-series] FOLDER: got {SERIES.format(12)}: 12 slices at 6 places, up to 2 at one, "
        f"which differ in TriggerTime: 0, 400; expected one slice at every place; fix: {SPLIT}"
    )


def test_localizers_of_one_series_are_no_stack(tmp_path):
    folder = write_series(tmp_path / "a", ramp()[:, :, :2])
    write_series(folder, ramp()[:, :, 2:3], name="t", first=3, column=(0, 0, -1))
    assert refusal_of(folder) == (
        f"[dicom-series] FOLDER: got {SERIES.format(3)}: slices with 2 orientations, as localizers "
        r"have: 1\0\0\0\1\0 in 2 of 3 slices (s000.dcm); 1\0\0\0\0\-1 in 1 of 3 slices (t000.dcm); "
        f"{APART}"
    )


def test_voxel_sides_that_change_in_a_series_are_refused(tmp_path):
    folder = write_series(tmp_path / "a", ramp()[:, :, :3])
    write_series(
        folder, ramp()[:, :, 3:], spacing=(1, 3, 4), name="t", first=4, positions=places(12, 16, 20)
    )
    assert refusal_of(folder) == (
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: slices with 2 pixel sizes (PixelSpacing): "
        r"3\2 in 3 of 6 slices (s000.dcm); 3\1 in 3 of 6 slices (t000.dcm); "
        f"{APART}"
    )


def test_sizes_and_patients_that_change_are_told_at_once(tmp_path):
    folder = write_series(tmp_path / "a", ramp()[:, :, :3])
    tags = {(0x10, 0x20): ("LO", "ben")}
    write_series(
        folder, ramp((5, 3, 3)), name="t", first=4, positions=places(12, 16, 20), tags=tags
    )
    assert refusal_of(folder).splitlines() == [
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: slices with 2 numbers of rows: "
        f"4 in 3 of 6 slices (s000.dcm); 3 in 3 of 6 slices (t000.dcm); {APART}",
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: slices with 2 patients (PatientID): "
        f"anna in 3 of 6 slices (s000.dcm); ben in 3 of 6 slices (t000.dcm); {APART}",
    ]


@pytest.mark.parametrize(
    ("without", "name"),
    [
        ((0x20, 0x32), "ImagePositionPatient"),
        ((0x20, 0x37), "ImageOrientationPatient"),
        ((0x28, 0x30), "PixelSpacing"),
    ],
)
def test_a_series_without_a_place_is_not_put_anywhere(tmp_path, without, name):
    write_series(tmp_path / "a", ramp(), tags={without: None})
    assert refusal_of(tmp_path / "a") == (
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: no usable {name} in any slice; "
        "expected the place and size of every slice in its header; "
        "fix: export the series again, or convert it to NIfTI with the right geometry"
    )


def test_one_slice_without_its_place_is_named(tmp_path):
    folder = write_series(tmp_path / "a", ramp()[:, :, :5])
    write_series(folder, ramp()[:, :, 5:], name="t", first=6, tags={(0x20, 0x32): None})
    assert refusal_of(folder).startswith(
        f"[dicom-series] FOLDER: got {SERIES.format(6)}: no usable ImagePositionPatient in "
        "1 of 6 slices (t000.dcm); "
    )


# ---- Many frames in one file ----

FRAMES = "series without number (MR, UID 1.2.3.10, {} frames in 1 file)"


@pytest.mark.parametrize("syntax", ["explicit", "implicit", "big", "rle"])
def test_frames_lie_where_their_groups_say(tmp_path, syntax):
    heights = places(12, 4, 0, 20, 8, 16)
    path = write_frames(tmp_path / "a/m.dcm", ramp() * 300, heights, syntax=syntax)
    image = read_image(tmp_path / "a")
    assert np.array_equal(image.array, 300 * ramp()[:, :, [2, 1, 4, 0, 5, 3]])
    assert np.array_equal(image.geometry.affine, TO_RAS @ np.diag([2, 3, 4, 1]))
    assert image.warnings == ()
    assert np.array_equal(read_image(path).array, image.array)


def test_every_frame_is_scaled_as_its_own_group_says(tmp_path):
    slopes, intercepts = [1, 0.5, 100, 1e-3, -1, 1], [0, -1024, 0, 0, 3, 0]
    write_frames(
        tmp_path / "a/m.dcm",
        ramp(),
        places(0, 4, 8, 12, 16, 20),
        slopes=slopes,
        intercepts=intercepts,
    )
    assert np.allclose(read_image(tmp_path / "a").array, ramp() * slopes + intercepts, rtol=1e-6)


def test_frames_have_signs_and_no_overlays(tmp_path):
    stored = ramp() - 60
    heights = places(0, 4, 8, 12, 16, 20)
    write_frames(tmp_path / "a/m.dcm", stored, heights, signed=True)
    assert np.array_equal(read_image(tmp_path / "a").array, stored)
    bits = {(0x28, 0x101): ("US", 12), (0x28, 0x102): ("US", 11)}
    write_frames(tmp_path / "b/m.dcm", ramp() + 0x8000, heights, tags=bits)
    assert np.array_equal(read_image(tmp_path / "b").array, ramp())


def test_compressed_frames_are_scaled_alike_or_refused(tmp_path):
    heights = places(0, 4, 8, 12, 16, 20)
    alike, differing = [2] * 6, [2] * 5 + [3]
    write_frames(tmp_path / "a/m.dcm", ramp(), heights, slopes=alike, syntax="rle")
    assert np.array_equal(read_image(tmp_path / "a").array, 2 * ramp())
    write_frames(tmp_path / "b/m.dcm", ramp(), heights, slopes=differing, syntax="rle")
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "b")
    assert str(refusal.value).replace(str(tmp_path), "HERE") == (
        "[file-format] HERE/b/m.dcm: got compressed frames with slopes or intercepts of their own; "
        "expected one scale for all frames, or frames that are not compressed; "
        "fix: write the file again without compression (gdcmconv --raw does)"
    )


def test_files_of_one_frame_each_have_groups_too(tmp_path):
    for k in range(6):
        path = tmp_path / f"a/m{k}.dcm"
        write_frames(path, ramp()[:, :, k : k + 1], places(4 * k))
    assert np.array_equal(read_image(tmp_path / "a").array, ramp())


def test_phases_in_one_file_are_told_apart(tmp_path):
    phases = [{(0x20, 0x9128): ("UL", 1 + k // 3)} for k in range(6)]
    write_frames(tmp_path / "a/m.dcm", ramp(), places(0, 4, 8, 0, 4, 8), frame_tags=phases)
    assert refusal_of(tmp_path / "a") == (
        f"[dicom-series] FOLDER: got {FRAMES.format(6)}: 6 slices at 3 places, up to 2 at one, "
        "which differ in TemporalPositionIndex: 1, 2; expected one slice at every place; "
        f"fix: {SPLIT}"
    )


def test_frames_that_are_no_stack_are_named(tmp_path):
    heights = places(0, 4, 8, 12, 16, 99)
    write_frames(tmp_path / "a/m.dcm", ramp(), heights)
    assert refusal_of(tmp_path / "a") == (
        f"[image-damaged] FOLDER: got 6 slices at unequal distances in {FRAMES.format(6)}: 4 mm, "
        "but 83 mm between m.dcm frame 5 and m.dcm frame 6; expected slices at equal distances; "
        "fix: add the missing slices or resample the series to equal distances"
    )
    write_frames(
        tmp_path / "b/m.dcm",
        ramp(),
        places(0, 4, 8, 12, 16, 20),
        directions={4: (1, 0, 0, 0, 0, -1)},
    )
    assert "slices with 2 orientations, as localizers have" in refusal_of(tmp_path / "b")


def test_frames_without_groups_are_put_nowhere(tmp_path):
    groups = {(0x5200, 0x9229): None, (0x5200, 0x9230): None}
    write_frames(tmp_path / "a/m.dcm", ramp(), places(*range(6)), tags=groups)
    assert refusal_of(tmp_path / "a") == (
        "[dicom-series] FOLDER: got series without number (MR, UID 1.2.3.10, 1 file): 6 frames in "
        "the one file m.dcm, and no functional groups that say where each lies; "
        "expected one slice per file, or an enhanced file; "
        "fix: convert it to NIfTI (dcm2niix does), or to one file per slice"
    )


def test_a_copy_of_a_file_of_frames_is_read_once(tmp_path):
    path = write_frames(tmp_path / "a/m.dcm", ramp(), places(0, 4, 8, 12, 16, 20))
    shutil.copy(path, tmp_path / "a/m (1).dcm")
    image = read_image(tmp_path / "a")
    assert np.array_equal(image.array, ramp())
    assert image.warnings == ("m (1).dcm is a copy of m.dcm; read once",)


def test_one_slice_of_a_series_is_not_taken_for_the_series(tmp_path):
    folder = write_series(tmp_path / "a", ramp())
    assert refusal_of(folder / "s003.dcm") == (
        "[dicom-series] FOLDER: got a file with one slice; expected a whole series: an enhanced "
        "file with a frame for every slice, or a folder; fix: give the folder of the series"
    )


@pytest.mark.parametrize("size", [0.2, 0.5, 0.8, 0.99])
def test_a_file_of_frames_that_was_cut_is_damaged(tmp_path, size):
    path = write_frames(tmp_path / "a/m.dcm", ramp(), places(0, 4, 8, 12, 16, 20))
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content))])
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "a")
    assert {problem.code for problem in refusal.value.problems} <= {
        "image-damaged",
        "image-truncated",
        "dicom-series",
    }


def test_a_compression_that_is_not_read_is_named(tmp_path):
    tags = {(0x20, 0x0E): ("UI", "1.2.3.10")}
    write_file(tmp_path / "a/v.dcm", tags, sop_class="1.2", syntax="1.2.840.10008.1.2.4.102")
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "a")
    assert str(refusal.value).replace(str(tmp_path), "HERE") == (
        "[file-format] HERE/a/v.dcm: got a DICOM file in the transfer syntax "
        "1.2.840.10008.1.2.4.102; expected one that is not compressed, or as JPEG, JPEG-LS, "
        "JPEG 2000 or RLE; fix: export it again without compression"
    )


def test_groups_of_fewer_frames_than_the_header_has_are_damage(tmp_path):
    tags = {(0x28, 0x08): ("IS", 7)}
    write_frames(tmp_path / "a/m.dcm", ramp(), places(0, 4, 8, 12, 16, 20), tags=tags)
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "a")
    assert str(refusal.value).startswith(
        f"[image-damaged] {tmp_path / 'a/m.dcm'}: got 7 frames in the header, and functional "
        "groups of 6; "
    )
