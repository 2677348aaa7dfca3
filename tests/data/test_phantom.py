"""Phantoms: what a made-up case promises, on a small ball of a brain and on the MNI152 brain."""

import sys

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from deepseg.data.phantom import Brain, mni_brain, phantom_case, write_cases
from deepseg.errors import DeepsegError

SHAPE = (38, 44, 41)
AFFINE = np.array([[2.0, 0, 0, -37], [0, 2.0, 0, -45], [0, 0, 2.0, -39], [0, 0, 0, 1]])
SEEDS = range(8)


@pytest.fixture(scope="module")
def ball():
    """A ventricle within white matter within a shell of grey matter within a shell of fluid."""
    middle = (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2
    radius = np.linalg.norm((np.indices(SHAPE) - middle) * np.array(44 / 38), axis=0)
    ventricle, white, grey, mask = (np.clip(r - radius, 0, 1) for r in (4.5, 13.5, 17.5, 19))
    grey, white, mask = grey - white, white - ventricle, mask > 0
    t1 = (0.87 * white + 0.64 * grey + 0.27 * (1 - white - grey)) * mask
    return Brain(*(a.astype(np.float32) for a in (t1, grey, white)), mask, AFFINE)


@pytest.fixture(scope="module")
def cases(ball):
    return [phantom_case(ball, rng=np.random.default_rng(seed)) for seed in SEEDS]


@pytest.fixture(scope="module")
def template():
    pytest.importorskip("nilearn", reason="the MNI152 brain comes with nilearn (extra 'demo')")
    return mni_brain()


def mean(case, channel, where):
    return case.channels[channel][where].mean()


def healthy(case, tissue):
    """Inside the brain and its tissue, at least two voxels away from every lesion."""
    near = ndimage.binary_dilation(case.labels["lesions"], iterations=2)
    return case.roi & ~near & (case.labels["tissue"] == tissue)


def best_dice_of_a_threshold(case):
    """What somebody who knows the truth and FLAIR, but looks at one voxel at a time, can reach."""
    truth, flair = case.labels["lesions"][case.roi] == 1, case.channels["FLAIR"][case.roi]
    thresholds = np.percentile(flair, np.linspace(80, 99.95, 60))
    result = [flair > threshold for threshold in thresholds]
    return max(2 * (f & truth).sum() / (f.sum() + truth.sum()) for f in result)


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_all_volumes_of_a_case_share_the_grid_of_the_brain(cases):
    for case in cases:
        assert {name: v.dtype for name, v in case.channels.items()} == {
            "T1": np.float32,
            "FLAIR": np.float32,
        }
        assert {task: v.dtype for task, v in case.labels.items()} == {
            "lesions": np.uint8,
            "tissue": np.uint8,
        }
        assert case.roi.dtype == np.bool_
        volumes = [*case.channels.values(), *case.labels.values(), case.roi]
        assert {v.shape for v in volumes} == {SHAPE}
        np.testing.assert_array_equal(case.affine, AFFINE)


def test_the_same_generator_gives_the_same_case_and_another_one_another(ball, cases):
    again = phantom_case(ball, rng=np.random.default_rng(0))
    for first, same, second in (
        (cases[0].channels["T1"], again.channels["T1"], cases[1].channels["T1"]),
        (cases[0].channels["FLAIR"], again.channels["FLAIR"], cases[1].channels["FLAIR"]),
        (cases[0].labels["lesions"], again.labels["lesions"], cases[1].labels["lesions"]),
        (cases[0].labels["tissue"], again.labels["tissue"], cases[1].labels["tissue"]),
        (cases[0].roi, again.roi, cases[1].roi),
    ):
        np.testing.assert_array_equal(first, same)
        assert (first != second).any()


def test_the_brain_from_which_cases_are_made_stays_as_it_is(ball):
    before = [a.copy() for a in (ball.t1, ball.grey, ball.white, ball.mask, ball.affine)]
    phantom_case(ball, rng=np.random.default_rng(3))
    for old, new in zip(
        before, (ball.t1, ball.grey, ball.white, ball.mask, ball.affine), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def test_nothing_lies_outside_the_brain(cases):
    for case in cases:
        for volume in (*case.channels.values(), *case.labels.values()):
            assert not volume[~case.roi].any()


def test_intensities_are_whole_numbers_that_a_scanner_could_store(cases):
    for case in cases:
        for volume in case.channels.values():
            np.testing.assert_array_equal(volume, np.rint(volume))
            assert volume.min() >= 0
            assert 200 < volume.max() < 32768


@pytest.mark.parametrize("channel", ["T1", "FLAIR"])
def test_gain_differs_between_cases(cases, channel):
    levels = [mean(case, channel, healthy(case, 2)) for case in cases]
    assert max(levels) > 1.8 * min(levels)


def test_the_same_tissue_is_brighter_at_one_end_of_the_brain_than_at_another(cases):
    ratios = []
    for case in cases:
        white = ndimage.binary_erosion(healthy(case, 2), iterations=2)
        first = np.arange(SHAPE[0]).reshape(-1, 1, 1) < SHAPE[0] // 2
        front = np.arange(SHAPE[1]).reshape(1, -1, 1) < SHAPE[1] // 2
        levels = [
            mean(case, "T1", white & (first == a) & (front == b))
            for a in (True, False)
            for b in (True, False)
        ]
        ratios.append(max(levels) / min(levels))
    assert np.median(ratios) > 1.02  # about 1.005 from noise alone


def test_tissues_have_the_order_of_brightness_of_each_contrast(cases):
    for case in cases:
        fluid, grey, white = (healthy(case, tissue) for tissue in (0, 1, 2))
        assert mean(case, "T1", fluid) < mean(case, "T1", grey) < mean(case, "T1", white)
        assert mean(case, "FLAIR", fluid) < mean(case, "FLAIR", white) < mean(case, "FLAIR", grey)


def test_lesions_are_bright_in_flair_and_dark_in_t1(cases):
    for case in cases:
        core = ndimage.binary_erosion(case.labels["lesions"])
        around = ndimage.binary_dilation(core, iterations=5) & healthy(case, 2)
        assert core.any()
        assert mean(case, "FLAIR", core) > 1.25 * mean(case, "FLAIR", around)
        assert mean(case, "T1", core) < 0.85 * mean(case, "T1", around)


def test_lesions_blend_into_their_surroundings_over_a_voxel(cases):
    inside, outside = [], []
    for case in cases:
        lesion, white = case.labels["lesions"] == 1, case.labels["tissue"] == 2
        core, wider = ndimage.binary_erosion(lesion), ndimage.binary_dilation(lesion)
        around = mean(case, "T1", ndimage.binary_dilation(wider, iterations=3) & healthy(case, 2))
        depth = around - mean(case, "T1", core & white)
        inside.append((around - mean(case, "T1", lesion & ~core & white)) / depth)
        outside.append((around - mean(case, "T1", wider & ~lesion & white)) / depth)
    assert 0.6 < np.mean(inside) < 0.95
    assert 0.04 < np.mean(outside) < 0.3


def test_lesions_are_few_blobs_mostly_in_white_matter(cases):
    for case in cases:
        blobs, number = ndimage.label(case.labels["lesions"])
        litres = np.bincount(blobs.ravel())[1:] * 8e-6
        assert 1 <= number <= 12  # three or more are drawn, but they may touch in a small brain
        assert litres.max() < 12 * 4 / 3 * np.pi * 0.09**3
    in_lesions = np.concatenate([c.labels["tissue"][c.labels["lesions"] == 1] for c in cases])
    assert 0.6 < (in_lesions == 2).mean() < 1.0
    assert (in_lesions == 0).mean() < 0.01


def test_some_healthy_grey_matter_is_as_bright_in_flair_as_a_lesion(cases):
    for case in cases:
        core = ndimage.binary_erosion(case.labels["lesions"])
        bright = case.channels["FLAIR"] > 0.9 * mean(case, "FLAIR", core)
        assert (bright & healthy(case, 1)).sum() > 10


def test_brains_differ_in_shape_but_little_in_size(ball, cases):
    for case in cases:
        assert (case.roi != ball.mask).sum() > 500
        assert 0.7 < case.roi.sum() / ball.mask.sum() < 1.3
        assert ndimage.label(case.roi)[1] == 1


def test_brains_are_bent_and_not_only_turned_and_scaled(ball, cases):
    np.testing.assert_array_equal(ball.mask, ball.mask[::-1, ::-1, ::-1])
    for case in cases:  # turned and scaled about its middle, a ball keeps this symmetry
        assert (case.roi != case.roi[::-1, ::-1, ::-1]).sum() > 500


def test_tables_hold_the_cases_in_the_order_of_the_split(ball, tmp_path):
    tables = write_cases(tmp_path / "new" / "demo", {"train": 2, "test": 1}, seed=5, brain=ball)
    assert tables == [tmp_path / "new/demo/train.csv", tmp_path / "new/demo/test.csv"]
    assert tables[0].read_text() == (
        "case,channel_T1,channel_FLAIR,labels,roi\n"
        "case01,case01/T1.nii.gz,case01/FLAIR.nii.gz,case01/labels.nii.gz,case01/brain.nii.gz\n"
        "case02,case02/T1.nii.gz,case02/FLAIR.nii.gz,case02/labels.nii.gz,case02/brain.nii.gz\n"
    )
    assert tables[1].read_text() == (
        "case,channel_T1,channel_FLAIR,labels,roi\n"
        "case03,case03/T1.nii.gz,case03/FLAIR.nii.gz,case03/labels.nii.gz,case03/brain.nii.gz\n"
    )
    assert len(contents(tables[0].parent)) == 2 + 3 * 4


def test_tables_hold_the_channels_that_are_asked_for(ball, tmp_path):
    (table,) = write_cases(tmp_path, {"train": 1}, seed=5, channels=["FLAIR"], brain=ball)
    assert table.read_text() == (
        "case,channel_FLAIR,labels,roi\n"
        "case01,case01/FLAIR.nii.gz,case01/labels.nii.gz,case01/brain.nii.gz\n"
    )


@pytest.mark.parametrize("task", ["lesions", "tissue"])
def test_files_hold_the_case_of_seed_and_number(ball, tmp_path, task):
    write_cases(tmp_path, {"train": 1, "test": 1}, seed=5, task=task, brain=ball)
    case = phantom_case(ball, rng=np.random.default_rng(np.random.SeedSequence([5, 2])))
    for name, expected in (
        ("T1", case.channels["T1"]),
        ("FLAIR", case.channels["FLAIR"]),
        ("labels", case.labels[task]),
        ("brain", case.roi),
    ):
        image = nibabel.load(tmp_path / "case02" / f"{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), expected)
        np.testing.assert_array_equal(image.get_sform(coded=True)[0], AFFINE)
        assert image.get_sform(coded=True)[1] > 0
        assert image.get_data_dtype().kind == "u"
        assert image.header.get_xyzt_units()[0] == "mm"


def test_the_same_call_writes_the_same_bytes_and_another_seed_others(ball, tmp_path):
    for folder, seed in (("one", 0), ("two", 0), ("three", 1)):
        write_cases(tmp_path / folder, {"cases": 1}, seed=seed, brain=ball)
    item, two, three = (contents(tmp_path / folder) for folder in ("one", "two", "three"))
    assert item == two
    assert item.keys() == three.keys()
    assert [name for name in item if item[name] == three[name]] == ["cases.csv"]


def test_a_case_does_not_depend_on_the_split(ball, tmp_path):
    write_cases(tmp_path / "together", {"train": 2}, seed=0, brain=ball)
    write_cases(tmp_path / "apart", {"train": 1, "test": 1}, seed=0, brain=ball)
    assert contents(tmp_path / "together/case02") == contents(tmp_path / "apart/case02")


def test_without_nilearn_the_brain_is_refused_with_the_extra_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    with pytest.raises(DeepsegError) as refusal:
        write_cases(tmp_path / "demo", {"cases": 1}, seed=0)
    assert str(refusal.value) == (
        "[demo-extra-missing] got no package nilearn, which carries the MNI152 brain; "
        "expected the packages of the extra 'demo'; fix: pip install 'deepseg-pathways[demo]'"
    )
    assert not (tmp_path / "demo").exists()


def test_the_mni_brain_lies_where_the_template_lies(template):
    from nilearn import datasets

    assert template.mask.shape == (85, 103, 90)
    inside = np.argwhere(template.mask)
    for actual, image in (
        (template.t1, datasets.load_mni152_template(resolution=1)),
        (template.grey, datasets.load_mni152_gm_template(resolution=1)),
        (template.white, datasets.load_mni152_wm_template(resolution=1)),
    ):
        voxels = inside[:: len(inside) // 500]
        reference = nibabel.affines.apply_affine(
            np.linalg.inv(image.affine) @ template.affine, voxels
        )
        # A voxel centre of 2 mm is a corner of eight voxels of 1 mm, so this is their mean.
        expected = ndimage.map_coordinates(np.asarray(image.dataobj), reference.T, order=1)
        within = (reference > 0).all(axis=1)
        np.testing.assert_allclose(actual[tuple(voxels.T)][within], expected[within], atol=1e-5)


def test_the_mni_brain_is_whole_and_has_room_to_grow(template):
    assert 1.7 < template.mask.sum() * 8e-6 < 2.0  # litres
    assert ndimage.label(template.mask)[1] == 1
    lowest, highest = np.argwhere(template.mask).min(0), np.argwhere(template.mask).max(0)
    assert (lowest >= 6).all()
    assert (np.array(template.mask.shape) - 1 - highest >= 6).all()
    assert (template.grey + template.white).max() <= 1 + 1e-6


def test_a_threshold_does_not_segment_the_lesions_of_real_brains(template):
    cases = [phantom_case(template, rng=np.random.default_rng(seed)) for seed in range(2)]
    reached = [best_dice_of_a_threshold(case) for case in cases]
    assert 0.2 < np.mean(reached) < 0.75
    for case in cases:
        assert not (case.roi & ~ndimage.binary_erosion(np.ones_like(case.roi))).any()
