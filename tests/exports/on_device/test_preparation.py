"""Cases and segments on a device are those of deepseg."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from deepseg.config.cases import ZScore
from deepseg.data.images.orientation import Reorientation
from deepseg.data.images.volumes import Geometry
from deepseg.data.intensity import z_score
from deepseg.data.preparation import PreparedCase
from deepseg.data.segments.segment import cut
from deepseg.exports.on_device.cases import Case
from deepseg.exports.on_device.intensity import normalised, with_holes
from deepseg.exports.on_device.nifti import oriented, read_nifti
from deepseg.exports.on_device.segments import segment_inputs, segment_labels
from deepseg.exports.on_device.splits import split
from deepseg.exports.train_step.manifest import plan
from deepseg.geometry.boxes import Box
from tests.networks import small_network


@pytest.mark.parametrize(
    "settings",
    [
        {"subsampled": {"factors": [3, [2, 4, 1]]}},
        {"subsampled": {"factors": [3, [2, 4, 1]]}, "context_alignment": "deepmedic"},
    ],
)
def test_segments_are_cut_as_deepseg_cuts_them(settings):
    network = small_network(**settings)
    rng = np.random.default_rng(0)
    shape, size = (13, 17, 15), (9, 11, 10)
    channels = rng.normal(size=(2, *shape)).astype(np.float32)
    labels = rng.integers(-1, 3, size=shape).astype(np.int16)
    prepared = PreparedCase("a", channels, labels, None, None, Geometry(shape, np.eye(4)))
    case, rules = Case("a", channels, labels, None), plan(network, batch=1, segment=size)
    for _ in range(30):
        start = rng.integers(-12, 16, size=3)
        expected = cut(prepared, Box(tuple(start.tolist()), size), network.geometry)
        blocks = segment_inputs(case, start, rules)
        assert list(blocks) == ["x_normal", "x_sub1", "x_sub2"]
        for block, second in zip(blocks.values(), expected.inputs, strict=True):
            np.testing.assert_array_equal(block, second)
        np.testing.assert_array_equal(segment_labels(case, start, rules), expected.labels)


@pytest.mark.parametrize(
    "settings",
    [
        ZScore(),
        ZScore(cutoff_percentiles=(5, 90), above_mean=True),
        ZScore(cutoff_deviations=(1.0, 2.0)),
    ],
)
def test_z_scores_are_those_of_deepseg(settings):
    rng = np.random.default_rng(1)
    image = rng.gamma(2.0, 100.0, size=(9, 8, 7)).astype(np.float32)
    roi = rng.random(image.shape) < 0.6
    record = settings.model_dump(mode="json")
    for mask in (roi, None):
        expected = z_score(image, mask, settings)
        np.testing.assert_allclose(normalised(image, mask, record, "T1"), expected, atol=1e-6)
    assert normalised(image, roi, {**record, "channels": ["FLAIR"]}, "T1") is image
    assert normalised(image, roi, "none", "T1") is image


@pytest.mark.parametrize("code", [1, 0], ids=["sform", "qform"])
@pytest.mark.parametrize("dtype", ["<i2", ">f4", "u1"])
def test_nifti_files_are_read_and_turned_as_by_nibabel(tmp_path, code, dtype):
    rng = np.random.default_rng(2)
    voxels = rng.integers(0, 200, size=(3, 5, 4)).astype(dtype)
    turn = np.array([[0, -2.0, 0.1, 7], [0.1, 0, 3.0, -5], [1.5, 0, 0, 2], [0, 0, 0, 1]])
    header = nibabel.Nifti1Header(endianness=dtype[0] if dtype[0] in "<>" else "<")
    header.set_data_dtype(dtype)
    image = nibabel.Nifti1Image(voxels, turn, header)
    image.set_sform(turn, code=code)
    image.set_qform(turn, code=1 - code)
    image.header.set_slope_inter(2, 10)
    nibabel.save(image, tmp_path / "a.nii.gz")
    loaded = nibabel.load(tmp_path / "a.nii.gz")
    (tmp_path / "a.nii").write_bytes(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    for name in ("a.nii", "a.nii.gz"):
        array, affine = read_nifti(tmp_path / name)
        np.testing.assert_allclose(array, loaded.get_fdata())
        np.testing.assert_allclose(affine, loaded.affine[:3], atol=1e-5)
    codes = "".join(nibabel.aff2axcodes(loaded.affine))
    for letters in ("RAS", "LPI", "SRA"):
        expected = Reorientation.between(codes, letters).array(array)
        np.testing.assert_array_equal(oriented(array, affine, letters), expected)
    assert oriented(array, affine, None) is array


def test_holes_of_a_mask_are_those_that_scipy_fills():
    rng = np.random.default_rng(3)
    mask = ndimage.binary_dilation(rng.random((20, 18, 16)) < 0.06)
    filled = ndimage.binary_fill_holes(mask)
    assert filled.sum() > mask.sum()
    np.testing.assert_array_equal(with_holes(mask), filled)


def test_parts_of_a_split_are_disjoint_and_depend_on_the_seed():
    names = [f"case{number}" for number in range(23)]
    parts = split(names, 5)
    assert sorted(name for part in parts.values() for name in part) == sorted(names)
    assert [len(parts[part]) for part in ("first", "second", "third")] == [15, 4, 4]
    assert split(names, 5) == parts != split(names, 6)
