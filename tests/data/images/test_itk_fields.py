"""Units, scales and axes of MetaImage and NRRD headers, which SimpleITK leaves aside."""

import bz2

import numpy as np
import pytest

from deepseg.data.images.volumes import read_geometry, read_image
from deepseg.errors import DeepsegError

STORED = np.arange(2 * 3 * 4, dtype="<i2").reshape(2, 3, 4)
RAS = "right-anterior-superior"
DIRECTIONS = "space directions: (1,0,0) (0,2,0) (0,0,3)\n"
NO_SIDES = "the header has no {}; voxels are read as 1 mm wide"
NO_SPACE = "the header has no space of the patient, so left and right are unknown"


def nrrd(folder, fields, *, encoding="raw", pack=bytes):
    header = (
        "NRRD0005\n# a comment: not a field\ntype: short\ndimension: 3\nsizes: 2 3 4\n"
        f"endian: little\nencoding: {encoding}\n{fields}key:=value\n\n"
    )
    (folder / "a.nrrd").write_bytes(header.encode() + pack(STORED.tobytes(order="F")))
    return folder / "a.nrrd"


def metaimage(folder, fields):
    header = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\n"
        f"DimSize = 2 3 4\n{fields}ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
    )
    (folder / "a.mha").write_bytes(header.encode() + STORED.tobytes(order="F"))
    return folder / "a.mha"


def refusal_of(path):
    with pytest.raises(DeepsegError) as refusal:
        read_image(path)
    return str(refusal.value).replace(str(path), "FILE")


# ---- NRRD ----


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        pytest.param(RAS, (1, 1, 1), id="RAS"),
        pytest.param("left-anterior-superior", (-1, 1, 1), id="LAS"),
        pytest.param("LPS", (-1, -1, 1), id="LPS"),
    ],
)
def test_the_space_of_an_nrrd_says_where_its_axes_point(tmp_path, space, signs):
    image = read_image(nrrd(tmp_path, f"space: {space}\n{DIRECTIONS}space origin: (10,20,30)\n"))
    expected = np.diag([1.0, 2, 3, 1])
    expected[:3, 3] = (10, 20, 30)
    assert np.array_equal(image.geometry.affine, np.diag([*signs, 1]) @ expected)
    assert np.array_equal(image.array, STORED)
    assert image.warnings == ()


@pytest.mark.parametrize(
    ("unit", "mm"), [("m", 1000), ("cm", 10), ("um", 0.001), ("µm", 0.001), ("mm", 1), ("", 1)]
)
def test_lengths_of_an_nrrd_are_converted_to_millimetres(tmp_path, unit, mm):
    units = f'space units: "{unit}" "{unit}" "{unit}"\n'
    path = nrrd(tmp_path, f"space: {RAS}\n{units}{DIRECTIONS}space origin: (10,20,30)\n")
    image = read_image(path)
    assert image.geometry == read_geometry(path)
    assert image.geometry.spacing_mm == pytest.approx((mm, 2 * mm, 3 * mm))
    assert image.geometry.affine[:3, 3] == pytest.approx((10 * mm, 20 * mm, 30 * mm))
    warned = (f"the header counts in {unit}; read as mm",) if mm != 1 else ()
    assert image.warnings == warned


def test_units_that_differ_from_axis_to_axis_are_refused(tmp_path):
    path = nrrd(tmp_path, f'space: {RAS}\nspace units: "m" "mm" "mm"\n{DIRECTIONS}')
    assert refusal_of(path) == (
        "[image-damaged] FILE: got lengths in m, mm; expected one unit for all axes: mm, cm, m or "
        "um; fix: write it in mm"
    )


@pytest.mark.parametrize(
    ("fields", "warnings"),
    [
        (DIRECTIONS.replace("space", "space dimension: 3\nspace", 1), (NO_SPACE,)),
        (f"space: scanner-xyz\n{DIRECTIONS}", (NO_SPACE,)),
        ("spacings: 1 2 3\n", (NO_SPACE,)),
        (
            "content: image\n",
            (NO_SPACE, "the header has no spacings; voxels are read as 1 mm wide"),
        ),
    ],
)
def test_an_nrrd_that_does_not_name_its_axes_is_warned_of(tmp_path, fields, warnings):
    assert read_image(nrrd(tmp_path, fields)).warnings == warnings


def test_an_encoding_that_is_not_read_is_named_and_no_damage(tmp_path):
    path = nrrd(tmp_path, f"space: {RAS}\n{DIRECTIONS}", encoding="bzip2", pack=bz2.compress)
    assert refusal_of(path) == (
        "[file-format] FILE: got NRRD with the encoding bzip2; expected the encoding raw, gzip, "
        "hex or text; fix: write it again with the encoding gzip, or convert it to .nii.gz"
    )


# ---- MetaImage ----

PLACED = "TransformMatrix = 1 0 0 0 1 0 0 0 1\nElementSpacing = 1 2 3\n"


def test_the_scale_of_a_metaimage_is_applied(tmp_path):
    scale = "ElementToIntensityFunctionSlope = 0.5\nElementToIntensityFunctionOffset = -100\n"
    image = read_image(metaimage(tmp_path, PLACED + scale))
    assert np.array_equal(image.array, STORED * 0.5 - 100)
    assert image.warnings == ()


@pytest.mark.parametrize(
    ("slope", "expected"), [("0", "a slope above 0"), ("nan", "a finite number")]
)
def test_a_scale_that_makes_no_sense_is_refused(tmp_path, slope, expected):
    line = f"ElementToIntensityFunctionSlope = {slope}"
    assert refusal_of(metaimage(tmp_path, f"{PLACED}{line}\n")) == (
        f"[image-damaged] FILE: got {line}; expected {expected}; "
        "fix: copy or download the file again from its source"
    )


def test_lengths_of_a_metaimage_are_converted_to_millimetres(tmp_path):
    image = read_image(metaimage(tmp_path, f"{PLACED}DistanceUnits = cm\nOffset = 1 2 3\n"))
    assert image.geometry.spacing_mm == (10, 20, 30)
    assert image.geometry.affine[:3, 3].tolist() == [-10, -20, 30]
    assert image.warnings == ("the header counts in cm; read as mm",)


def test_a_metaimage_that_does_not_name_its_axes_is_warned_of(tmp_path):
    assert read_image(metaimage(tmp_path, "")).warnings == (
        "the header has no TransformMatrix, so left and right are unknown",
        NO_SIDES.format("ElementSpacing"),
    )
