"""Volumes in and out: whole files, damaged files, files that are no images, and what is written."""

import gzip
import os
from math import sqrt
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from deepseg.data.images.volumes import (
    Geometry,
    Volume,
    new_volume,
    read_geometry,
    read_image,
    read_labels,
    read_mask,
    volume_count,
    write_volume,
)
from deepseg.errors import DeepsegError, OutputNotWritable

SHAPE = (7, 5, 3)
# X to the left with 2 mm, Y upwards with 3 mm, Z to the front with 4 mm
AFFINE = np.array([[-2.0, 0, 0, 11], [0, 0, 4, 22], [0, 3, 0, -33], [0, 0, 0, 1]])
# The same grid as DICOM counts it, to the left and to the back: the first two rows change sign.
LPS_ORIGIN, LPS_SPACING = (-11.0, -22.0, -33.0), (2.0, 3.0, 4.0)
LPS_DIRECTION = (1.0, 0, 0, 0, 0, -1, 0, 1, 0)


def ramp(dtype=np.int16, shape=SHAPE):
    """Another number in every voxel."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def saved(path, array, affine=AFFINE, *, order="<", kind=nib.Nifti1Image, **fields):
    """A NIfTI file of ``array`` whose header fields are then set one by one, unrepaired."""
    header = kind.header_class(endianness=order)
    header.set_data_dtype(array.dtype)
    image = kind(array, affine, header)
    image.header.set_xyzt_units("mm")
    for field, value in fields.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def patched(path, field, value):
    """Overwrite a header field in a plain NIfTI-1 file, as a broken writer would."""
    dtype, begin = nib.Nifti1Header.template_dtype.fields[field]
    content = bytearray(path.read_bytes())
    written = np.asarray(value, dtype.base).tobytes()
    content[begin : begin + len(written)] = written
    path.write_bytes(content)
    return path


def text_of(error, path, read=read_image):
    """The whole message of the one problem with ``path``, which stands for itself as FILE."""
    with pytest.raises(DeepsegError) as refusal:
        read(path)
    assert type(refusal.value) is error
    (problem,) = refusal.value.problems
    return str(problem).replace(str(path), "FILE")


def refusal_of(path, read=read_image):
    return text_of(DeepsegError, path, read)


def itk_image(array, *, direction=LPS_DIRECTION):
    image = sitk.GetImageFromArray(array.T)
    image.SetSpacing(LPS_SPACING)
    image.SetOrigin(LPS_ORIGIN)
    image.SetDirection(direction)
    return image


def dicom_series(folder, array, *, series="1.2.3"):
    """One DICOM file per slice of ``array``, in an order of names against that of the slices."""
    folder.mkdir(exist_ok=True)
    image = itk_image(array)
    x_axis, y_axis = LPS_DIRECTION[0::3], LPS_DIRECTION[1::3]
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for k in range(array.shape[2]):
        plane = image[:, :, k]
        place = image.TransformIndexToPhysicalPoint((0, 0, k))
        for key, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.4",
            "0008|0018": f"{series}.{k + 1}",
            "0008|0060": "MR",
            "0020|000d": "1.2",
            "0020|000e": series,
            "0020|0032": "\\".join(f"{v:g}" for v in place),
            "0020|0037": "\\".join(f"{v:g}" for v in (*x_axis, *y_axis)),
        }.items():
            plane.SetMetaData(key, value)
        writer.SetFileName(str(folder / f"{series}-{99 - k}.dcm"))
        writer.Execute(plane)
    return folder


# ---- Geometry ----


def test_geometries_are_compared_and_hashed_by_value():
    grid, same = Geometry(SHAPE, AFFINE), Geometry(SHAPE, AFFINE.copy())
    assert grid == same
    assert hash(grid) == hash(same)
    assert grid != Geometry((7, 5, 4), AFFINE)
    assert grid != Geometry(SHAPE, AFFINE + np.eye(4) * 1e-9)
    assert grid != "a grid"
    assert hash(Geometry(SHAPE, AFFINE)) == hash(
        Geometry(SHAPE, np.where(AFFINE == 0, -0.0, AFFINE))
    )


def test_a_geometry_keeps_its_own_read_only_copy():
    affine = AFFINE.copy()
    geometry = Geometry(SHAPE, affine)
    affine[0, 0] = 99
    assert geometry.affine[0, 0] == -2
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 1


def test_spacing_and_voxel_volume_are_the_sides_of_a_voxel():
    geometry = Geometry(SHAPE, AFFINE)
    assert geometry.spacing_mm == (2.0, 3.0, 4.0)
    assert geometry.voxel_ml == pytest.approx(0.024)  # 2 * 3 * 4 mm^3


@pytest.mark.parametrize(
    ("change", "distance"),
    [
        pytest.param(np.eye(4), 0.0, id="itself"),
        pytest.param(
            np.array([[1, 0, 0, 3], [0, 1, 0, 4], [0, 0, 1, 0], [0, 0, 0, 1]]), 5.0, id="shift"
        ),
        # 7 voxels of 2 mm, flipped in place about x = 5: the ends change places
        pytest.param(
            np.array([[-1, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), 14.0, id="flip"
        ),
    ],
)
def test_the_distance_is_that_of_the_worst_corner(change, distance):
    grid = Geometry(SHAPE, AFFINE)
    assert grid.distance_mm(Geometry(SHAPE, change @ AFFINE)) == pytest.approx(distance)


def test_a_wrong_spacing_is_seen_at_the_far_corner():
    first, second = Geometry((10, 4, 1), np.eye(4)), Geometry((10, 4, 1), np.diag([1.1, 1.2, 1, 1]))
    # the far corner is 9.5 and 3.5 voxels away from the origin
    assert first.distance_mm(second) == pytest.approx(sqrt(0.95**2 + 0.7**2))


def test_two_grids_over_one_field_of_view_have_no_distance():
    coarse = np.diag([2.0, 2, 2, 1])
    coarse[:3, 3] = 0.5
    assert Geometry((8, 6, 4), np.eye(4)).distance_mm(Geometry((4, 3, 2), coarse)) == 0


# ---- Images ----


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_any_number_type_and_byte_order_becomes_float32(tmp_path, dtype, order, suffix):
    path = saved(tmp_path / f"a{suffix}", ramp(dtype), order=order)
    image = read_image(path)
    assert image.array.dtype == np.float32
    assert image.array.flags.c_contiguous
    assert np.array_equal(image.array, ramp())
    assert image.geometry == Geometry(SHAPE, AFFINE)
    assert image.warnings == ()
    assert read_geometry(path) == image.geometry


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(nib.Nifti2Image, ".nii.gz"), (nib.Nifti1Pair, ".img"), (nib.Nifti1Pair, ".hdr")],
)
def test_nifti_2_and_pairs_of_files_are_read(tmp_path, kind, suffix):
    image = read_image(saved(tmp_path / f"a{suffix}", ramp(), kind=kind))
    assert np.array_equal(image.array, ramp())
    assert image.geometry == Geometry(SHAPE, AFFINE)


def test_a_file_of_more_than_one_piece_is_read(tmp_path):
    array = ramp(np.int32, (97, 59, 53))  # 1.2 MB
    assert np.array_equal(read_image(saved(tmp_path / "a.nii.gz", array)).array, array)


def test_slope_and_intercept_are_applied(tmp_path):
    path = saved(tmp_path / "a.nii", ramp())
    patched(patched(path, "scl_slope", 0.5), "scl_inter", -10)
    assert np.array_equal(read_image(path).array, ramp() * 0.5 - 10)


def test_header_extensions_are_passed_over(tmp_path):
    image = nib.Nifti1Image(ramp(), AFFINE)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"word " * 20))
    nib.save(image, tmp_path / "a.nii.gz")
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array, ramp())


@pytest.mark.parametrize("shape", [(7, 5, 3, 1), (7, 5, 3, 1, 1)])
def test_a_last_axis_of_one_is_dropped(tmp_path, shape):
    image = read_image(saved(tmp_path / "a.nii", ramp(shape=shape)))
    assert np.array_equal(image.array, ramp())


def test_a_flat_image_gets_a_third_axis(tmp_path):
    path = saved(tmp_path / "a.nii", ramp(shape=(7, 5)))
    patched(path, "pixdim", [1, 2, 3, 0, 0, 0, 0, 0])
    image = read_image(path)
    assert np.array_equal(image.array, ramp(shape=(7, 5, 1)))
    assert image.geometry.shape == (7, 5, 1)


def test_what_a_header_says_of_axes_that_it_does_not_have_is_ignored(tmp_path):
    path = patched(saved(tmp_path / "a.nii", ramp(shape=(7, 5))), "dim", [2, 7, 5, 0])
    patched(patched(path, "sform_code", 0), "qform_code", 0)
    assert read_geometry(path).affine[2, 3] == 0  # the only slice lies at the origin


@pytest.mark.parametrize(("unit", "name", "mm"), [(1, "metres", 1000.0), (3, "micrometres", 0.001)])
def test_other_units_are_read_as_mm_with_a_warning(tmp_path, unit, name, mm):
    image = read_image(saved(tmp_path / "a.nii", ramp(), xyzt_units=unit))
    assert image.geometry.spacing_mm == pytest.approx((2 * mm, 3 * mm, 4 * mm))
    assert image.geometry.affine[0, 3] == pytest.approx(11 * mm)
    assert image.warnings == (f"the header counts in {name}; read as mm",)


# ---- qform and sform ----


MOVED = AFFINE + np.array([[0, 0, 0, 5.0], [0] * 4, [0] * 4, [0] * 4])


def with_transforms(path, sform_code, qform_code, qform=AFFINE):
    image = nib.Nifti1Image(ramp(), None)
    image.header.set_sform(AFFINE, sform_code)
    image.header.set_qform(qform, qform_code)
    nib.save(image, path)
    return path


@pytest.mark.parametrize(
    ("sform_code", "qform_code", "qform", "affine", "warnings"),
    [
        pytest.param(1, 1, AFFINE, AFFINE, (), id="both agree"),
        pytest.param(2, 0, MOVED, AFFINE, (), id="sform only"),
        pytest.param(0, 3, MOVED, MOVED, (), id="qform only"),
        pytest.param(
            1, 1, MOVED, AFFINE, ("qform and sform disagree by 5 mm; sform is used",), id="disagree"
        ),
        pytest.param(1, 2, AFFINE + (MOVED - AFFINE) * 0.039, AFFINE, (), id="less than 0.1 voxel"),
        pytest.param(
            1,
            2,
            AFFINE + (MOVED - AFFINE) * 0.062,
            AFFINE,
            ("qform and sform disagree by 0.31 mm; sform is used",),
            id="more than 0.1 voxel",
        ),
    ],
)
def test_which_transform_is_used(tmp_path, sform_code, qform_code, qform, affine, warnings):
    image = read_image(with_transforms(tmp_path / "a.nii", sform_code, qform_code, qform))
    assert image.geometry.affine == pytest.approx(affine)
    assert image.warnings == warnings


def test_without_any_transform_left_and_right_are_unknown(tmp_path):
    image = read_image(with_transforms(tmp_path / "a.nii", 0, 0))
    assert image.geometry.spacing_mm == (2.0, 3.0, 4.0)
    assert image.warnings == ("qform and sform codes are both 0, so left and right are unknown",)


def test_a_quaternion_that_is_none_is_warned_of_beside_sform_and_refused_alone(tmp_path):
    path = patched(with_transforms(tmp_path / "a.nii", 1, 1), "quatern_b", 5)
    assert read_image(path).warnings == ("qform is not a rotation; sform is used",)
    path = patched(with_transforms(tmp_path / "a.nii", 0, 1), "quatern_b", 5)
    assert refusal_of(path) == (
        "[affine-singular] FILE: got a qform whose quaternion has the length 5.09902, which is no "
        "rotation; expected b, c and d of a length of at most 1; "
        "fix: write the image again with the affine matrix of its source"
    )


@pytest.mark.parametrize("length", [1.0, 1.0000004, 1.000005, 1.0009])
def test_a_quaternion_longer_than_1_by_rounding_is_normalised(tmp_path, length):
    path = with_transforms(tmp_path / "a.nii", 0, 1)
    handedness = nib.load(path).header["pixdim"][0]
    for part, value in zip("bcd", (0.6 * length, 0.8 * length, 0), strict=True):
        patched(path, f"quatern_{part}", value)
    # Half a turn about (0.6, 0.8, 0) makes 2 v v' - 1: its columns times 2, 3 and 4 mm.
    half_turn = [[-0.28, 0.96, 0], [0.96, 0.28, 0], [0, 0, -1]]
    expected = np.multiply(half_turn, [2, 3, 4 * handedness])
    image = read_image(path)
    assert image.geometry.affine[:3, :3] == pytest.approx(expected, abs=1e-5)
    assert image.warnings == ()


def test_a_path_of_windows_is_named_as_such(tmp_path):
    assert refusal_of(tmp_path / "anna\\T1.nii.gz") == (
        "[file-missing] FILE: got no such file; the name has backslashes, as paths of Windows "
        "have; expected an image file; fix: write anna/T1.nii.gz, with slashes"
    )


def test_a_pair_in_capitals_is_a_pair(tmp_path):
    nib.save(nib.Nifti1Pair(ramp(), AFFINE), tmp_path / "a.img")
    (tmp_path / "a.hdr").rename(tmp_path / "U.HDR")
    (tmp_path / "a.img").rename(tmp_path / "U.IMG")
    for name in ("U.HDR", "U.IMG"):
        assert np.array_equal(read_image(tmp_path / name).array, ramp())
    (tmp_path / "U.IMG").rename(tmp_path / "U.img")
    assert np.array_equal(read_image(tmp_path / "U.HDR").array, ramp())


def test_thick_slices_tolerate_as_many_millimetres_as_voxels():
    thick = Geometry((4, 5, 6), np.diag([0.5, 0.5, 6, 1]))
    moved = thick.affine.copy()
    moved[:3, 3] += (0.1, -0.3, 1.5)
    assert thick.distance_voxels(Geometry((4, 5, 6), moved)) == pytest.approx(0.6)  # 0.3 of 0.5 mm
    turned = Geometry((4, 5, 6), thick.affine[:, [1, 2, 0, 3]])
    assert turned.distance_voxels(Geometry((4, 5, 6), moved[:, [1, 2, 0, 3]])) == pytest.approx(0.6)


def test_a_plain_file_beside_the_compressed_one_is_warned_of_and_not_read(tmp_path):
    saved(tmp_path / "a.nii", ramp() * 0)
    image = read_image(saved(tmp_path / "a.nii.gz", ramp()))
    assert np.array_equal(image.array, ramp())
    assert image.warnings == ("a.nii lies in the same folder; a.nii.gz is read",)


# ---- Damaged and false files ----


def noise():
    return np.random.default_rng(1).integers(-999, 999, SHAPE).astype(np.int16)


COPY = "copy or download the file again from its source"


def damage_half(content):
    return content[: len(content) // 2]


def damage_trailer(content):
    return content[:-8]


def damage_crc(content):
    return content[:-6] + bytes([content[-6] ^ 4]) + content[-5:]


@pytest.mark.parametrize("damage", [damage_half, damage_trailer])
def test_a_gzip_stream_that_ends_early_is_refused(tmp_path, damage):
    path = saved(tmp_path / "a.nii.gz", noise())
    unpacked = 352 + 2 * 7 * 5 * 3
    path.write_bytes(damage(path.read_bytes()))
    message = refusal_of(path)
    assert message.startswith("[image-truncated] FILE: got a gzip stream that ends early (")
    assert message.endswith(f" bytes unpacked); expected an image; fix: {COPY}")
    assert (f"({unpacked} bytes" in message) == (damage is damage_trailer)


def test_a_wrong_checksum_is_refused(tmp_path):
    path = saved(tmp_path / "a.nii.gz", noise())
    path.write_bytes(damage_crc(path.read_bytes()))
    message = refusal_of(path)
    assert message.startswith("[image-damaged] FILE: got a damaged gzip stream (CRC check failed ")
    assert message.endswith(f"); expected an image; fix: {COPY}")


def test_every_flipped_bit_in_a_gzip_stream_is_noticed(tmp_path):
    whole = saved(tmp_path / "a.nii.gz", noise()).read_bytes()
    path = tmp_path / "b.nii.gz"
    for place in range(10, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        os.utime(path, ns=(place, place))  # another time, so that no older verdict is taken
        with pytest.raises(DeepsegError):
            read_image(path)


def test_a_file_repaired_in_place_is_trusted_again(tmp_path):
    path = saved(tmp_path / "a.nii.gz", noise())
    whole = path.read_bytes()
    path.write_bytes(damage_crc(whole))
    with pytest.raises(DeepsegError):
        read_image(path)
    path.write_bytes(whole)
    assert np.array_equal(read_image(path).array, noise())


def test_a_file_damaged_after_it_was_read_is_noticed(tmp_path):
    path = saved(tmp_path / "a.nii.gz", noise())
    read_image(path)
    path.write_bytes(damage_crc(path.read_bytes()))
    os.utime(path, ns=(1, 1))
    with pytest.raises(DeepsegError):
        read_image(path)


def test_half_a_plain_file_is_refused_with_both_sizes(tmp_path):
    path = saved(tmp_path / "a.nii", ramp())
    path.write_bytes(path.read_bytes()[:400])
    assert refusal_of(path) == (
        "[image-truncated] FILE: got 400 bytes; "
        "expected 562 bytes: 7 x 5 x 3 voxels of int16 from byte 352 on; "
        f"fix: {COPY}"
    )


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_absurd_dimensions_are_refused_without_taking_memory(tmp_path, suffix):
    plain = patched(saved(tmp_path / "a.nii", ramp()), "dim", [3, 32767, 32767, 32767])
    path = tmp_path / f"b{suffix}"
    content = plain.read_bytes()
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    assert refusal_of(path) == (
        f"[image-truncated] FILE: got 562 bytes; expected {2 * 32767**3 + 352} bytes: "
        f"32767 x 32767 x 32767 voxels of int16 from byte 352 on; fix: {COPY}"
    )


@pytest.mark.parametrize(
    ("content", "got", "fix"),
    [
        pytest.param(
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            "a Git LFS pointer",
            "fetch the file itself: git lfs pull",
            id="LFS pointer",
        ),
        pytest.param(
            b"/annex/objects/MD5E-s3--c1.nii.gz\n",
            "a git-annex pointer",
            "fetch the file itself: git annex get",
            id="annex pointer",
        ),
        pytest.param(
            b"\xef\xbb\xbf\n<!DOCTYPE html><html><body>Log in</body></html>",
            "a web page",
            "download it again; the server sent a page, often one that asks to log in",
            id="web page",
        ),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.nrrd"])
def test_what_stands_in_for_an_image_is_named(tmp_path, name, content, got, fix):
    (tmp_path / name).write_bytes(content)
    expected = f"[image-damaged] FILE: got {got}; expected an image; fix: {fix}"
    assert refusal_of(tmp_path / name) == expected
    assert refusal_of(tmp_path / name, read_geometry) == expected


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    assert refusal_of(tmp_path / "a.nii.gz") == (
        f"[image-truncated] FILE: got an empty file; expected an image; fix: {COPY}"
    )


def test_a_name_that_does_not_say_how_the_file_is_packed_is_refused(tmp_path):
    saved(tmp_path / "a.nii", ramp()).rename(tmp_path / "b.nii.gz")
    saved(tmp_path / "a.nii.gz", ramp()).rename(tmp_path / "c.nii")
    assert refusal_of(tmp_path / "b.nii.gz") == (
        "[image-damaged] FILE: got a file that is not compressed; expected a gzip stream; "
        f"fix: take .gz from its name if it is a plain image, else {COPY}"
    )
    assert refusal_of(tmp_path / "c.nii") == (
        "[image-damaged] FILE: got a gzip stream; expected a file that is not compressed; "
        "fix: add .gz to its name"
    )


def test_a_file_without_nifti_header_is_refused_with_its_beginning(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"hello!!!" + bytes(600))
    assert refusal_of(tmp_path / "a.nii") == (
        "[image-damaged] FILE: got a file that begins with b'hello!!!'; "
        f"expected a NIfTI header; fix: {COPY}"
    )


def test_a_header_that_ends_early_is_refused(tmp_path):
    path = saved(tmp_path / "a.nii", ramp())
    path.write_bytes(path.read_bytes()[:200])
    assert refusal_of(path, read_geometry).startswith(
        "[image-damaged] FILE: got a file that begins"
    )


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [
        ("dim", [0, 7, 5, 3], "a header with 0 dimensions"),
        ("dim", [3, 7, -5, 3], "a header with the dimensions (7, -5, 3)"),
        ("dim", [1, 7], "a header with the dimensions (7,)"),
        ("vox_offset", 0, "voxels that begin at byte 0, in the header"),
        ("vox_offset", float("nan"), "voxels that begin at byte nan, in the header"),
        ("scl_inter", float("inf"), "an intercept that is not finite"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, field, value, got):
    path = saved(tmp_path / "a.nii", ramp())
    patched(patched(path, "scl_slope", 1), field, value)
    assert refusal_of(path) == f"[image-damaged] FILE: got {got}; expected an image; fix: {COPY}"


def test_an_analyze_file_is_refused_because_it_has_no_orientation(tmp_path):
    nib.save(nib.AnalyzeImage(ramp(), np.diag([2.0, 3, 4, 1])), tmp_path / "a.img")
    assert refusal_of(tmp_path / "a.img") == (
        "[file-format] FILE: got an Analyze header, which does not say where left and right are; "
        "expected a NIfTI header; fix: convert it to NIfTI with the program that wrote it"
    )


# ---- Paths ----


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path):
    saved(tmp_path / "case_01_T1.nii.gz", ramp())
    assert refusal_of(tmp_path / "case_01_T2.nii.gz") == (
        "[file-missing] FILE: got no such file; expected an image file; "
        "fix: correct the path; did you mean 'case_01_T1.nii.gz'?"
    )


def test_a_missing_folder_is_named(tmp_path):
    assert refusal_of(tmp_path / "cases" / "one" / "a.nii.gz") == (
        f"[file-missing] FILE: got no folder cases in {tmp_path}; expected an image file; "
        "fix: correct the path"
    )


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        ("gone.nii.gz", "repair the link"),
        (".git/annex/objects/x.nii.gz", "fetch the file itself: git annex get"),
    ],
)
def test_a_dangling_link_is_named(tmp_path, target, fix):
    (tmp_path / "a.nii.gz").symlink_to(target)
    assert refusal_of(tmp_path / "a.nii.gz") == (
        f"[file-missing] FILE: got a link to {target}, which does not exist; "
        f"expected an image file; fix: {fix}"
    )


def test_a_loop_of_links_is_refused(tmp_path):
    (tmp_path / "a.nii.gz").symlink_to("b.nii.gz")
    (tmp_path / "b.nii.gz").symlink_to("a.nii.gz")
    assert refusal_of(tmp_path / "a.nii.gz") == (
        "[file-unreadable] FILE: got Too many levels of symbolic links; "
        "expected a readable image file; fix: repair the link, which leads back to itself"
    )


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "a\0b.nii"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    assert refusal_of(tmp_path / name).startswith("[file-unreadable] FILE: got ")


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert refusal_of(tmp_path / "a.nii.gz") == (
        "[file-unreadable] FILE: got a pipe, socket or device; "
        "expected a readable image file; fix: give a file that this user may read"
    )


def test_a_file_that_may_not_be_read_is_refused_with_user_and_mode(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.nii", ramp())
    path.chmod(0o200)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # the superuser is never refused
    assert refusal_of(path) == (
        f"[file-unreadable] FILE: got no permission for user {os.getuid()} (mode 0200); "
        "expected a readable image file; fix: give a file that this user may read"
    )


def test_an_unknown_format_is_refused_with_those_known(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert refusal_of(tmp_path / "a.png") == (
        "[file-format] FILE: got the suffix .png; expected one of .nii, .nii.gz, .img, .img.gz, "
        ".hdr, .hdr.gz, .mha, .mhd, .nrrd, .nhdr, or a folder with one DICOM series, or an "
        "enhanced .dcm; "
        "fix: convert the file to .nii.gz"
    )


def test_the_missing_half_of_a_pair_is_named(tmp_path):
    saved(tmp_path / "a.img", ramp(), kind=nib.Nifti1Pair)
    (tmp_path / "a.hdr").unlink()
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "a.img")
    assert refusal.value.problems[0].where == str(tmp_path / "a.hdr")


# ---- What an image may not hold ----


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_counted_and_located(tmp_path, bad):
    array = ramp(np.float32)
    array[3, 1, 2] = array[3, 4, 0] = bad
    path = saved(tmp_path / "a.nii", array)
    assert refusal_of(path) == (
        "[image-not-finite] FILE: got 2 voxels that are NaN or infinite, the first at voxel "
        "(3, 1, 2); expected a finite number in every voxel; "
        "fix: repair the image, or set 'nan: replace' to read these voxels as 0"
    )
    image = read_image(path, nan="replace")
    assert np.array_equal(image.array, np.where(np.isfinite(array), array, 0))
    assert image.warnings == (
        "2 voxels that are NaN or infinite, the first at voxel (3, 1, 2); read as 0",
    )


def test_a_number_too_large_for_float32_counts_as_infinite(tmp_path):
    array = ramp(np.float64)
    array[6, 4, 2] = 1e300
    assert "1 voxel that is NaN or infinite, the first at voxel (6, 4, 2)" in refusal_of(
        saved(tmp_path / "a.nii", array)
    )


@pytest.mark.parametrize(
    ("shape", "got"),
    [
        ((7, 5, 3, 2), "4D with 2 volumes"),
        ((7, 5, 3, 1, 4), "5D with 4 values per voxel"),
        ((7, 5, 3, 2, 4), "5D with 2 x 4 values per voxel"),
    ],
)
def test_more_than_three_axes_are_refused(tmp_path, shape, got):
    assert refusal_of(saved(tmp_path / "a.nii", ramp(shape=shape))) == (
        f"[image-not-3d] FILE: got {got}; expected 3D, one volume per file; "
        "fix: save them as one file each; list them as channels"
    )


SERIES = np.stack([ramp(), ramp() * 2 + 7, ramp() - 50], axis=3)  # three volumes, all different


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".img", ".nrrd"])
@pytest.mark.parametrize("k", [0, 1, 2])
def test_a_volume_of_a_4d_file_is_read_like_a_file_of_its_own(tmp_path, suffix, k):
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        sitk.WriteImage(sitk.JoinSeries([itk_image(SERIES[..., i]) for i in range(3)]), str(path))
    else:
        kind = nib.Nifti1Pair if suffix == ".img" else nib.Nifti1Image
        saved(path, SERIES, kind=kind, scl_slope=np.nan)
    image = read_image(path, volume=k)
    assert np.array_equal(image.array, SERIES[..., k])
    assert image.array.dtype == np.float32
    assert image.geometry == Geometry(SHAPE, AFFINE)
    assert read_geometry(path, volume=k) == Geometry(SHAPE, AFFINE)
    write_volume(tmp_path / "b.nii", LABELS, image)
    assert read_geometry(tmp_path / "b.nii") == Geometry(SHAPE, AFFINE)


@pytest.mark.parametrize(
    ("shape", "count"),
    [((7, 5), 1), (SHAPE, 1), ((*SHAPE, 1), 1), ((*SHAPE, 3), 3), ((*SHAPE, 3, 1), 3)],
)
def test_volumes_are_counted_by_the_header(tmp_path, shape, count):
    assert volume_count(saved(tmp_path / "a.nii", ramp(shape=shape))) == count


def test_a_fifth_axis_has_no_volumes_to_count(tmp_path):
    path = saved(tmp_path / "a.nii", ramp(shape=(7, 5, 3, 1, 4)))
    assert refusal_of(path, volume_count).startswith("[image-not-3d] FILE: got 5D with 4 values")


@pytest.mark.parametrize("volume", [3, -1])
@pytest.mark.parametrize("read", [read_image, read_geometry])
def test_a_volume_that_a_file_lacks_is_refused(tmp_path, read, volume):
    path = saved(tmp_path / "a.nii", SERIES)
    assert refusal_of(path, lambda file: read(file, volume=volume)) == (
        f"[image-volumes] FILE: got 3 volumes; expected a volume {volume}, counted from 0; "
        "fix: give the image that holds a volume of every channel"
    )


def test_a_4d_file_that_lacks_its_last_voxel_is_refused_for_every_volume(tmp_path):
    path = saved(tmp_path / "a.nii", SERIES)
    path.write_bytes(path.read_bytes()[:-1])
    assert refusal_of(path, lambda file: read_image(file, volume=0)) == (
        "[image-truncated] FILE: got 981 bytes; expected 982 bytes: 3 volumes of 7 x 5 x 3 voxels "
        "of int16 from byte 352 on; fix: copy or download the file again from its source"
    )


def test_a_voxel_that_is_not_finite_is_named_with_its_volume(tmp_path):
    array = SERIES.astype(np.float32)
    array[2, 1, 0, 1] = np.nan
    path = saved(tmp_path / "a.nii", array)
    assert read_image(path, volume=0).warnings == ()
    assert read_image(path, volume=1, nan="replace").warnings == (
        "1 voxel that is NaN or infinite, the first at voxel (2, 1, 0) of volume 1; read as 0",
    )


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (128, "RGB"),
        (2304, "RGBA"),
        (32, "complex64"),
        (1792, "complex128"),
        (1536, "float128"),
        (1280, "uint64"),
        (0, "none"),
        (77, "number 77"),
    ],
)
def test_voxels_that_are_not_one_plain_number_are_refused(tmp_path, code, name):
    path = patched(saved(tmp_path / "a.nii", ramp(np.float64)), "datatype", code)
    path.write_bytes(path.read_bytes() + bytes(4000))
    assert refusal_of(path) == (
        f"[image-dtype] FILE: got voxels of type {name}; expected one integer of at most 32 bits "
        "(64 if signed, or in labels) or one float of at most 64 bits per voxel; "
        "fix: convert the image, with one file per channel"
    )


@pytest.mark.parametrize(
    ("side", "shown"), [(0.0, "0"), (-3.0, "-3"), (float("nan"), "nan"), (float("inf"), "inf")]
)
def test_sides_that_are_not_above_zero_are_refused(tmp_path, side, shown):
    path = patched(saved(tmp_path / "a.nii", ramp()), "pixdim", [1, 2, side, 4])
    expected = (
        f"[spacing-invalid] FILE: got voxels with sides of 2 x {shown} x 4; "
        "expected sides above 0; "
        "fix: write the image again with the voxel sides (pixdim) of its source"
    )
    assert refusal_of(path) == expected
    assert refusal_of(path, read_geometry) == expected


@pytest.mark.parametrize(
    ("row_x", "row_z", "got"),
    [
        pytest.param([0, 0, 0, 5], [0, 3, 0, 0], "a singular affine matrix", id="one axis lost"),
        pytest.param([1, 3, 0, 5], [0, 0, 0, 0], "a singular affine matrix", id="axes alike"),
        pytest.param([1e-6, 0, 0, 5], [1, 3, 0, 0], "a singular affine matrix", id="nearly alike"),
        pytest.param(
            [np.nan] * 4, [0, 3, 0, 0], "an affine matrix that holds NaN or infinity", id="NaN"
        ),
    ],
)
def test_an_affine_without_inverse_is_refused(tmp_path, row_x, row_z, got):
    path = patched(saved(tmp_path / "a.nii", ramp()), "srow_x", row_x)
    assert refusal_of(patched(path, "srow_z", row_z)) == (
        f"[affine-singular] FILE: got {got}; "
        "expected an affine matrix that gives every voxel its own place; "
        "fix: write the image again with the affine matrix of its source"
    )


# ---- Labels ----


LABELS = ramp() % 4


@pytest.mark.parametrize(
    "dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8", ">i2", ">f4"]
)
def test_labels_of_any_type_become_the_smallest_integers(tmp_path, dtype):
    labels = read_labels(
        saved(
            tmp_path / "a.nii.gz",
            LABELS.astype(dtype),
            order=dtype[0].replace("u", "<").replace("i", "<").replace("f", "<"),
        )
    )
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, LABELS)


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, np.uint8),
        (0, 256, np.uint16),
        (-1, 127, np.int8),
        (-1, 128, np.int16),
        (0, 65536, np.uint32),
    ],
)
def test_the_type_of_labels_follows_their_range(tmp_path, low, high, dtype):
    array = ramp(np.int32) * 0
    array[1, 2, 0], array[4, 0, 2] = low, high
    labels = read_labels(saved(tmp_path / "a.nii", array))
    assert labels.array.dtype == dtype
    assert np.array_equal(labels.array, array)


def test_labels_that_rounding_moved_are_rounded_back_and_never_cut(tmp_path):
    moved = LABELS.astype(np.float64)
    moved[LABELS == 1] = 0.99999997
    moved[LABELS == 3] = 2.99998
    assert np.array_equal(read_labels(saved(tmp_path / "a.nii", moved)).array, LABELS)


def test_float_labels_under_an_integer_header_come_back_whole(tmp_path):
    image = nib.Nifti1Image(LABELS.astype(np.float32), AFFINE)
    image.header.set_data_dtype(np.int16)  # nibabel then invents a slope
    nib.save(image, tmp_path / "a.nii.gz")
    assert not np.array_equal(image.from_filename(tmp_path / "a.nii.gz").get_fdata(), LABELS)
    assert np.array_equal(read_labels(tmp_path / "a.nii.gz").array, LABELS)


@pytest.mark.parametrize("bad", [1.2, 1.002, np.nan, np.inf, 1e300])
def test_labels_between_whole_numbers_are_refused(tmp_path, bad):
    array = LABELS.astype(np.float64)
    array[2, 0, 1] = array[2, 4, 0] = array[6, 4, 2] = bad
    assert refusal_of(saved(tmp_path / "a.nii", array), read_labels) == (
        f"[labels-not-integers] FILE: got 3 voxels that are not a whole number, the first {bad:g} "
        "at voxel (2, 0, 1); expected whole numbers (at most 0.001 beside one); "
        "fix: give the label file, not an image or a probability map, and resample labels "
        "with nearest neighbours"
    )


def test_a_label_map_renames_all_at_once_and_leaves_the_rest(tmp_path):
    path = saved(tmp_path / "a.nii", LABELS)
    # 1 and 2 change places: neither may be renamed twice
    labels = read_labels(path, {1: 2, 2: 1, 3: 300})
    assert np.array_equal(labels.array, np.array([0, 2, 1, 300])[LABELS])
    assert labels.array.dtype == np.uint16


# ---- Masks ----


@pytest.mark.parametrize(
    "inside", [1, 255, 0.99999997, 1.0004], ids=["1", "255", "below 1", "above 1"]
)
def test_a_mask_is_true_where_it_is_not_zero(tmp_path, inside):
    array = (LABELS > 1) * np.float64(inside)
    mask = read_mask(saved(tmp_path / "a.nii.gz", array))
    assert mask.array.dtype == bool
    assert np.array_equal(mask.array, LABELS > 1)
    assert mask.warnings == ()


def test_a_mask_of_two_numbers_is_read_with_a_warning(tmp_path):
    mask = read_mask(saved(tmp_path / "a.nii", LABELS % 3))
    assert np.array_equal(mask.array, LABELS % 3 > 0)
    assert mask.warnings == ("the mask holds 2 numbers above 0; all count as inside",)


@pytest.mark.parametrize("bad", [0.5, 0.01, -1.0, np.nan])
def test_a_probability_map_or_an_image_is_no_mask(tmp_path, bad):
    array = (LABELS > 1).astype(np.float32)
    array[5, 2, 1] = bad
    assert refusal_of(saved(tmp_path / "a.nii", array), read_mask) == (
        "[mask-not-binary] FILE: got 1 voxel that is neither 0 nor a positive whole number, "
        f"the first {bad:g} at voxel (5, 2, 1); expected 0 outside and 1 inside; "
        "fix: threshold the probability map or give the mask that belongs to the image"
    )


# ---- Other formats ----


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
def test_other_formats_give_the_same_volume_as_nifti(tmp_path, suffix, compressed):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(ramp()), str(path), compressed)
    image = read_image(path)
    assert np.array_equal(image.array, ramp())
    assert image.geometry == Geometry(SHAPE, AFFINE)
    assert image.warnings == ()
    assert read_geometry(path) == image.geometry
    assert read_labels(path).array.dtype == np.uint8


def test_a_flat_image_of_another_format_gets_a_third_axis(tmp_path):
    image = sitk.GetImageFromArray(ramp(shape=(7, 5)).T)
    image.SetSpacing((2, 3))
    image.SetOrigin((-11, -22))
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    volume = read_image(tmp_path / "a.mha")
    assert np.array_equal(volume.array, ramp(shape=(7, 5, 1)))
    expected = [[-2.0, 0, 0, 11], [0, -3, 0, 22], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert volume.geometry == Geometry((7, 5, 1), np.array(expected))


@pytest.mark.parametrize(("volumes", "is_read"), [(1, True), (2, False)])
def test_a_fourth_axis_of_another_format_must_be_one(tmp_path, volumes, is_read):
    image = sitk.JoinSeries([itk_image(ramp())] * volumes)
    sitk.WriteImage(image, str(tmp_path / "a.nrrd"))
    if is_read:
        volume = read_image(tmp_path / "a.nrrd")
        assert np.array_equal(volume.array, ramp())
        assert volume.geometry == Geometry(SHAPE, AFFINE)
    else:
        assert refusal_of(tmp_path / "a.nrrd").startswith(
            "[image-not-3d] FILE: got 4D with 2 volumes;"
        )


@pytest.mark.parametrize(
    ("join", "got"),
    [
        (sitk.Compose, "vector of 32-bit float"),
        (sitk.RealAndImaginaryToComplex, "complex of 32-bit float"),
    ],
)
def test_colours_and_complex_numbers_of_other_formats_are_refused(tmp_path, join, got):
    image = itk_image(ramp(np.float32))
    sitk.WriteImage(join(image, image), str(tmp_path / "a.nrrd"))
    assert refusal_of(tmp_path / "a.nrrd").startswith(
        f"[image-dtype] FILE: got voxels of type {got};"
    )


def test_nan_in_other_formats_is_refused_too(tmp_path):
    array = ramp(np.float32)
    array[0, 1, 2] = np.nan
    sitk.WriteImage(itk_image(array), str(tmp_path / "a.mha"))
    assert "1 voxel that is NaN or infinite, the first at voxel (0, 1, 2)" in refusal_of(
        tmp_path / "a.mha"
    )


@pytest.mark.parametrize(
    ("suffix", "compressed", "code"),
    [
        (".mha", False, "image-truncated"),
        (".mha", True, "image-truncated"),
        (".nrrd", False, "image-truncated"),
        (".nrrd", True, "image-damaged"),
    ],
)
def test_a_file_of_another_format_that_ends_early_is_refused(tmp_path, suffix, compressed, code):
    path = tmp_path / f"a{suffix}"
    sitk.WriteImage(itk_image(noise()), str(path), compressed)
    path.write_bytes(path.read_bytes()[:-60])
    assert refusal_of(path).startswith(f"[{code}] FILE: got ")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_a_wrong_checksum_in_another_format_is_refused(tmp_path, suffix):
    sitk.WriteImage(itk_image(noise()), str(tmp_path / f"a{suffix}"), True)
    data = tmp_path / ("a.zraw" if suffix == ".mhd" else f"a{suffix}")
    content = bytearray(data.read_bytes())
    content[-6 if suffix == ".nrrd" else -3] ^= 1  # gzip ends in checksum and length, zlib not
    data.write_bytes(content)
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / f"a{suffix}")
    (problem,) = refusal.value.problems
    assert problem.code == "image-damaged"
    assert problem.where == str(data)


def test_a_dicom_series_gives_the_same_volume_as_nifti(tmp_path):
    folder = dicom_series(tmp_path / "series", ramp())
    (folder / "readme.txt").write_text("no DICOM")
    image = read_image(folder)
    assert np.array_equal(image.array, ramp())
    assert image.geometry == Geometry(SHAPE, AFFINE)
    assert read_geometry(folder) == image.geometry


def test_a_folder_must_hold_a_series(tmp_path):
    folder = tmp_path / "x.nii.gz"
    folder.mkdir()
    assert refusal_of(folder) == (
        "[dicom-series] FILE: got a folder with no DICOM series; "
        "expected an image file, or a folder with one DICOM series; fix: give the image file itself"
    )


@pytest.mark.parametrize("kept", [50, 300, -20])
def test_a_damaged_slice_is_named_even_at_the_end_of_the_series(tmp_path, kept):
    folder = dicom_series(tmp_path / "series", ramp())
    last = folder / "1.2.3-97.dcm"
    last.write_bytes(last.read_bytes()[:kept])
    with pytest.raises(DeepsegError) as refusal:
        read_image(folder)
    assert str(refusal.value).replace(str(last), "SLICE") == (
        f"[image-damaged] SLICE: got a DICOM file that is damaged; expected an image; fix: {COPY}"
    )


# ---- Results ----


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("codes", [(1, 1), (2, 0), (0, 3), (0, 0), (4, 1)])
def test_a_result_keeps_both_transforms_codes_sides_and_units(tmp_path, codes, order, kind):
    header = kind.header_class(endianness=order)
    header.set_data_dtype(np.int16)
    source = kind(ramp(), None, header)
    source.header.set_sform(AFFINE + 0.1, codes[0])
    source.header.set_qform(MOVED, codes[1])
    source.header["xyzt_units"] = 10
    nib.save(source, tmp_path / "a.nii")
    write_volume(tmp_path / "b.nii.gz", LABELS, read_image(tmp_path / "a.nii"))

    before, after = nib.load(tmp_path / "a.nii"), nib.load(tmp_path / "b.nii.gz")
    assert isinstance(after, kind)
    assert np.array_equal(before.affine, after.affine)
    fields = "sform_code qform_code xyzt_units srow_x srow_y srow_z quatern_b quatern_c quatern_d"
    for field in (*fields.split(), "qoffset_x", "qoffset_y", "qoffset_z", "pixdim"):
        assert np.array_equal(before.header[field], after.header[field]), field
    assert read_geometry(tmp_path / "b.nii.gz") == read_geometry(tmp_path / "a.nii")


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        pytest.param(LABELS > 1, np.uint8, id="bool"),
        pytest.param(LABELS.astype(np.int64), np.uint8, id="few labels"),
        pytest.param(LABELS * 100, np.uint16, id="300 labels"),
        pytest.param(LABELS - 1, np.int8, id="negative"),
        pytest.param(ramp(np.float64) / 7, np.float32, id="float"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_result_has_the_smallest_type_that_holds_it(tmp_path, array, dtype, suffix):
    like = new_volume(array, Geometry(SHAPE, AFFINE))
    write_volume(tmp_path / f"a{suffix}", array, like)
    written = nib.load(tmp_path / f"a{suffix}")
    assert written.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(written.dataobj), array.astype(dtype))


def test_simpleitk_sees_the_result_where_nibabel_does(tmp_path):
    write_volume(tmp_path / "a.nii.gz", ramp(), new_volume(ramp(), Geometry(SHAPE, AFFINE)))
    image = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image).T, ramp())
    assert image.GetSpacing() == pytest.approx(LPS_SPACING)
    assert image.GetOrigin() == pytest.approx(LPS_ORIGIN)
    assert image.GetDirection() == pytest.approx(LPS_DIRECTION)
    assert nib.load(tmp_path / "a.nii.gz").affine == pytest.approx(AFFINE)


@pytest.mark.parametrize("suffix", [".nrrd", "series"])
def test_a_result_for_another_format_lies_where_its_source_lies(tmp_path, suffix):
    source = tmp_path / f"a{suffix}"
    if suffix == "series":
        dicom_series(source, ramp())
    else:
        sitk.WriteImage(itk_image(ramp()), str(source))
    write_volume(tmp_path / "b.nii.gz", LABELS, read_image(source))
    result = read_labels(tmp_path / "b.nii.gz")
    assert result.geometry == Geometry(SHAPE, AFFINE)
    assert result.warnings == ()
    assert np.array_equal(result.array, LABELS)


def test_a_flat_source_and_a_sheared_grid_are_written_as_they_were_read(tmp_path):
    flat = saved(tmp_path / "a.nii", ramp(shape=(7, 5)))
    write_volume(tmp_path / "b.nii", ramp(shape=(7, 5, 1)), read_image(flat))
    assert read_geometry(tmp_path / "b.nii") == read_geometry(flat)

    shear = AFFINE.copy()
    shear[1, 0] = 1.0
    write_volume(tmp_path / "c.nii", ramp(), new_volume(ramp(), Geometry(SHAPE, shear)))
    image = read_image(tmp_path / "c.nii")
    assert image.geometry == Geometry(SHAPE, shear)
    assert image.warnings == ()


def test_a_result_is_the_same_bytes_every_time_and_passes_gzip(tmp_path):
    like = new_volume(noise(), Geometry(SHAPE, AFFINE))
    write_volume(tmp_path / "a.nii.gz", noise(), like)
    write_volume(tmp_path / "b.nii.gz", noise(), like)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    unpacked = gzip.decompress((tmp_path / "a.nii.gz").read_bytes())
    assert len(unpacked) == 352 + 2 * 7 * 5 * 3


def test_an_axis_too_long_for_nifti_1_makes_the_result_nifti_2(tmp_path):
    array = np.zeros((1, 32768, 1), np.uint8)
    write_volume(tmp_path / "a.nii.gz", array, new_volume(array, Geometry(array.shape, AFFINE)))
    assert isinstance(nib.load(tmp_path / "a.nii.gz"), nib.Nifti2Image)
    assert read_labels(tmp_path / "a.nii.gz").geometry == Geometry(array.shape, AFFINE)


def test_a_result_that_cannot_be_written_leaves_nothing(tmp_path):
    like = new_volume(ramp(), Geometry(SHAPE, AFFINE))
    message = text_of(
        OutputNotWritable, tmp_path / "gone" / "a.nii.gz", lambda p: write_volume(p, ramp(), like)
    )
    assert message == (
        "[output-not-writable] FILE: got a folder that does not exist; "
        "expected a place where this file can be written; "
        "fix: create the folder or choose another one"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_result_of_another_shape_than_its_grid_is_a_mistake_of_the_caller(tmp_path):
    like = new_volume(ramp(), Geometry(SHAPE, AFFINE))
    with pytest.raises(ValueError, match=r"array of shape \(7, 5\) for a grid of \(7, 5, 3\)"):
        write_volume(tmp_path / "a.nii", ramp(shape=(7, 5)), like)


def test_a_volume_says_nothing_unless_there_is_something_to_say():
    volume = new_volume(ramp(), Geometry(SHAPE, AFFINE))
    assert isinstance(volume, Volume)
    assert volume.warnings == ()


# ---- The reason that is true ----


@pytest.mark.parametrize(
    ("name", "content", "got", "fix"),
    [
        ("a.nii.gz", b"PK\x03\x04", "a zip archive", "unpack it, and give the image that is in it"),
        ("a.nii.gz", b"BZh9", "a file packed by bzip2", "unpack it, and give the image that is in"),
        (
            "a.nii",
            b"\x89HDF\r\n",
            "an HDF5 file",
            "give the image itself, or rename it if it is an",
        ),
        (
            "a.nii",
            bytes(128) + b"DICM",
            "a DICOM file",
            "give the image itself, or rename it if it",
        ),
        ("a.nii", b"NRRD0004\n", "an NRRD file", "give the image itself, or rename it if it is an"),
        ("a.nii", b"<?xml version='1.0'?><VTKFile/>", "an XML file", "give the image itself"),
    ],
)
def test_a_file_under_the_name_of_an_image_is_called_what_it_is(tmp_path, name, content, got, fix):
    (tmp_path / name).write_bytes(content + bytes(600))
    assert refusal_of(tmp_path / name).startswith(
        f"[image-damaged] FILE: got {got}; expected an image; fix: {fix}"
    )


def test_a_path_through_a_file_and_a_link_to_itself_have_remedies_of_their_own(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    assert refusal_of(tmp_path / "a.nii.gz/b.nii").endswith(
        "fix: correct the path, part of which is a file and no folder"
    )
    assert refusal_of(tmp_path / "loop.nii").endswith(
        "fix: repair the link, which leads back to itself"
    )


META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
    "CompressedData = False\nElementSpacing = 1 1 1\nDimSize = 2 3 4\nElementType = MET_SHORT\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementDataFile = "
)
NRRD = (
    "NRRD0005\ntype: short\ndimension: 3\nsizes: 2 3 4\nencoding: raw\nendian: little\n"
    "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
    "space origin: (0,0,0)\n"
)


@pytest.mark.parametrize(
    ("name", "header", "text"),
    [
        (
            "a.mhd",
            META + "gone.raw\n",
            "[file-missing] FILE: got a header that names gone.raw for its voxels, which is not "
            "there; expected both files in their places; fix: copy that file too, or correct its "
            "name in the header",
        ),
        (
            "a.mha",
            META + "LOCAL\n0123456789",
            "[image-truncated] FILE: got 10 bytes of voxels; expected 48 bytes: 2 x 3 x 4 voxels; "
            f"fix: {COPY}",
        ),
        (
            "a.nrrd",
            NRRD + "\n0123456789",
            "[image-truncated] FILE: got 10 bytes of voxels; expected 48 bytes: 2 x 3 x 4 voxels; "
            f"fix: {COPY}",
        ),
        (
            "a.nrrd",
            NRRD.replace("raw", "zrl") + "\n",
            "[file-format] FILE: got NRRD with the encoding zrl; expected the encoding raw, gzip, "
            "hex or text; fix: write it again with the encoding gzip, or convert it to .nii.gz",
        ),
        (
            "a.nrrd",
            NRRD.replace("(0,1,0)", "(1,0,0)") + "\n",
            "[affine-singular] FILE: got a singular affine matrix; expected an affine matrix that "
            "gives every voxel its own place; fix: write the image again with the affine matrix of "
            "its source",
        ),
    ],
)
def test_metaimage_and_nrrd_are_refused_for_the_true_reason(tmp_path, capfd, name, header, text):
    (tmp_path / name).write_text(header)
    assert refusal_of(tmp_path / name) == text
    assert capfd.readouterr() == ("", "")  # SimpleITK would write lines of its own


def test_a_pipe_for_the_voxels_of_a_header_is_not_waited_for(tmp_path):
    (tmp_path / "a.mhd").write_text(META + "p.raw\n")
    os.mkfifo(tmp_path / "p.raw")
    with pytest.raises(DeepsegError) as refusal:
        read_image(tmp_path / "a.mhd")
    assert refusal.value.problems[0].got == "a pipe, socket or device"
