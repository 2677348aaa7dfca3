"""Preparation: what a network gets of a case, and a cache that is never wrong."""

import dataclasses

import nibabel as nib
import numpy as np
import pytest

from deepseg.config.cases import Preparation, ZScore
from deepseg.data.case_cache import fingerprint, open_prepared, prepared_folder
from deepseg.data.cases.case import Case
from deepseg.data.preparation import channel_bytes, prepare

SHAPE = (9, 12, 7)
NAMES = ("T1", "FLAIR")


@pytest.fixture
def case(tmp_path) -> Case:
    rng = np.random.default_rng(0)
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    roi = np.zeros(SHAPE, np.uint8)
    roi[2:7, 3:9, 1:6] = 1
    arrays = {
        "t1": rng.normal(50, 9, SHAPE).astype(np.float32),
        "flair": rng.normal(200, 30, SHAPE).astype(np.float32),
        "labels": rng.integers(0, 3, SHAPE).astype(np.uint8) * 2,
        "roi": roi,
    }
    paths = {}
    for name, array in arrays.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array, affine), paths[name])
    return Case(
        name="p1",
        channels=(paths["t1"], paths["flair"]),
        labels=paths["labels"],
        roi=paths["roi"],
        weight_maps=(),
        label_map=((4, 1),),
        trust_arrays=False,
        where="",
    )


def loaded(path):
    return np.asarray(nib.load(path).dataobj)


def test_channels_become_z_scores_of_the_region_of_interest(case):
    result = prepare(case, Preparation(), NAMES)
    roi = loaded(case.roi) > 0
    for channel, path in zip(result.channels, case.channels, strict=True):
        image = loaded(path).astype(np.float64)
        expected = (image - image[roi].mean()) / image[roi].std()
        np.testing.assert_allclose(channel, expected, atol=1e-5)
    assert np.array_equal(result.roi, roi)
    assert result.geometry.spacing_mm == (1.0, 2.0, 3.0)


def test_labels_are_mapped(case):
    expected = loaded(case.labels)
    assert np.array_equal(
        prepare(case, Preparation(), NAMES).labels, np.where(expected == 4, 1, expected)
    )


def test_only_the_channels_named_are_normalised(case):
    result = prepare(case, Preparation(z_score=ZScore(channels=("FLAIR",))), NAMES)
    assert np.array_equal(result.channels[0], loaded(case.channels[0]))
    assert not np.array_equal(result.channels[1], loaded(case.channels[1]))


def test_none_leaves_intensities_alone(case):
    result = prepare(case, Preparation(z_score="none"), NAMES)
    assert np.array_equal(result.channels[1], loaded(case.channels[1]))


def test_intensities_are_clipped_before_they_are_normalised(case):
    plain = prepare(case, Preparation(z_score="none"), ("T1", "FLAIR")).channels
    low, high = (float(value) for value in np.percentile(plain, [30, 70]))
    clipped = prepare(case, Preparation(z_score="none", clip=(low, high)), ("T1", "FLAIR")).channels
    assert np.array_equal(clipped, plain.clip(np.float32(low), np.float32(high)))
    scored = prepare(case, Preparation(clip=(low, high)), ("T1", "FLAIR"))
    inside = scored.channels[0] if scored.roi is None else scored.channels[0][scored.roi]
    assert abs(inside.mean()) < 1e-5


def test_a_missing_channel_is_the_mean_of_the_normalised_ones(case):
    without = dataclasses.replace(case, channels=(None, case.channels[1]))
    result = prepare(without, Preparation(), NAMES)
    assert (result.channels[0] == 0).all()
    assert result.reference is not None
    assert result.reference.geometry.shape == SHAPE


def test_a_case_is_resampled_to_the_wanted_voxel_size(case):
    result = prepare(case, Preparation(resample=1.5), NAMES)
    assert result.shape == (6, 16, 14)
    assert result.channels.shape == (2, 6, 16, 14)
    assert result.labels.shape == result.roi.shape == (6, 16, 14)
    assert set(np.unique(result.labels)) <= {0, 1, 2}
    assert result.geometry.spacing_mm == (1.5, 1.5, 1.5)


def test_what_comes_from_the_cache_is_what_was_prepared(case, tmp_path):
    direct = prepare(case, Preparation(), NAMES)
    back = open_prepared(prepared_folder(case, Preparation(), NAMES, tmp_path / "cache"))
    assert np.array_equal(back.channels, direct.channels)
    assert np.array_equal(back.labels, direct.labels)
    assert np.array_equal(back.roi, direct.roi)
    assert back.geometry == direct.geometry
    assert back.name == "p1"
    assert isinstance(back.channels, np.memmap)


def test_channels_may_lie_in_a_file_without_a_name(case, tmp_path):
    without = dataclasses.replace(case, channels=(*case.channels, None))
    names = (*NAMES, "T2")
    direct = prepare(without, Preparation(), names)
    result = prepare(without, Preparation(), names, scratch=tmp_path / "scratch")
    assert len(result.mappings) == 1
    assert list((tmp_path / "scratch").iterdir()) == []
    assert np.array_equal(result.channels, direct.channels)
    result.forget()
    assert np.array_equal(result.channels, direct.channels)
    assert np.array_equal(result.reference.array, direct.channels[0])


def test_the_channels_of_a_case_take_four_bytes_per_voxel(case):
    for way in (Preparation(), Preparation(resample=(0.5, 1.5, 0.8))):
        assert channel_bytes(case, way, NAMES) == prepare(case, way, NAMES).channels.nbytes
    without = dataclasses.replace(case, channels=(None, case.channels[1]))
    assert channel_bytes(without, Preparation(), NAMES) == 2 * 9 * 12 * 7 * 4


def test_channels_may_be_volumes_of_one_file(case, tmp_path):
    images = [loaded(path) for path in case.channels]
    series = nib.Nifti1Image(np.stack([*images, images[0] * 2], 3), np.diag([1.0, 2, 3, 1]))
    nib.save(series, tmp_path / "all.nii.gz")
    both = dataclasses.replace(case, channels=(tmp_path / "all.nii.gz",) * 2, volumes=(1, 0))
    result = prepare(both, Preparation(z_score="none"), NAMES)
    assert np.array_equal(result.channels, images[::-1])
    assert result.geometry.spacing_mm == (1.0, 2.0, 3.0)
    assert result.reference.geometry.shape == SHAPE


def test_other_volumes_are_prepared_anew(case):
    names = {
        fingerprint(dataclasses.replace(case, volumes=volumes), Preparation(), NAMES)
        for volumes in [(), (0, 1), (1, 0)]
    }
    assert len(names) == 3


def stamps(folder):
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_prepared_case_is_used_again(case, tmp_path):
    first = prepared_folder(case, Preparation(), NAMES, tmp_path / "cache")
    before = stamps(first)
    assert prepared_folder(case, Preparation(), NAMES, tmp_path / "cache") == first
    assert stamps(first) == before


def test_a_changed_file_or_setting_is_prepared_anew(case, tmp_path):
    cache = tmp_path / "cache"
    folders = {prepared_folder(case, Preparation(), NAMES, cache)}
    folders.add(prepared_folder(case, Preparation(z_score="none"), NAMES, cache))
    folders.add(
        prepared_folder(dataclasses.replace(case, label_map=()), Preparation(), NAMES, cache)
    )
    nib.save(nib.load(case.channels[0]), case.channels[0].with_name("copy.nii.gz"))
    case.channels[0].with_name("copy.nii.gz").replace(case.channels[0])
    folders.add(prepared_folder(case, Preparation(), NAMES, cache))
    assert len(folders) == 4


def test_a_damaged_cache_is_whole_again_afterwards(case, tmp_path):
    folder = prepared_folder(case, Preparation(), NAMES, tmp_path / "cache")
    good = (folder / "channels.npy").read_bytes()
    harms = {
        "channels.npy": [good[:-9] + bytes([good[-9] ^ 1]) + good[-8:], good[: len(good) // 2]],
        "case.json": [b"", b'{"name": "p1'],
    }
    for name, contents in harms.items():
        for content in contents:
            (folder / name).write_bytes(content)
            assert prepared_folder(case, Preparation(), NAMES, tmp_path / "cache") == folder
            assert (folder / "channels.npy").read_bytes() == good
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
