"""Cases through several models, mirrored, tile by tile: against one answer at a time, and numpy."""

from dataclasses import replace
from functools import partial
from itertools import product

import nibabel
import numpy as np
import pytest
import torch

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.testing import Inference
from deepseg.data import preparation
from deepseg.data.cases.case import Case
from deepseg.data.images import volumes
from deepseg.data.images.resampling import resample
from deepseg.data.images.volumes import Geometry, new_volume
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, volume
from deepseg.inference import ensemble as looks
from deepseg.inference.boxwise import boxes
from deepseg.inference.boxwise import predict as fast_volume
from deepseg.inference.components import Cleaning
from deepseg.inference.tilewise import predict
from deepseg.model.network import Network
from deepseg.report.console import Console
from deepseg.report.overlay import grey_levels, grey_window
from deepseg.sessions.segmentation import load_case as opening
from deepseg.sessions.segmentation.ensemble import Ensemble, member
from deepseg.sessions.segmentation.load_case import LoadedCase, load_case
from deepseg.sessions.segmentation.predict_case import predict_case

SHAPE = (13, 11, 12)
AFFINE = np.diag([1.5, 2.0, 1.0, 1.0])
ALL = SavedResults(probabilities=True)


def network(seed=0, **changes):
    settings = {
        "channels": ["T1", "FLAIR"],
        "classes": ["background", "a", "b"],
        "normal": {"feature_maps": [3, 4]},
        "subsampled": {"factors": [3]},
        "fc": {"feature_maps": [5]},
        "segments": {"train": 11},
        **changes,
    }
    rng = torch.Generator().manual_seed(seed)
    own = Network(ModelConfig.model_validate(settings), rng=rng).eval()
    for name, tensor in own.state_dict().items():
        if "running" in name or name.endswith("bias") or tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=rng)
    return own


def opened(members=1, channels=None):
    if channels is None:
        channels = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    geometry = Geometry(SHAPE, AFFINE)
    ready = PreparedCase(
        "case", channels, None, None, None, geometry, new_volume(channels[0], geometry)
    )
    case = Case("case", (), None, None, (), (), False, "cases.csv:2")
    return LoadedCase(case, (ready,) * members, None, None)


def computing(*networks, save=ALL, cleaning=None, tile=None, **inference):
    settings = Inference(**inference)
    members = tuple(member(one, settings, Preparation()) for one in networks)
    return Ensemble(members, settings, save, cleaning or {}, tile, 4)


def answer(how, case):
    return predict_case(how, case, Console(quiet=True))


def stacked(found):
    return np.stack([found.probabilities[label] for label in sorted(found.probabilities)])


def test_several_models_answer_with_their_mean():
    networks = [network(seed) for seed in range(3)]
    singles = [stacked(answer(computing(one), opened())) for one in networks]
    together = answer(computing(*networks), opened(3))
    expected = np.mean(singles, axis=0)
    np.testing.assert_allclose(stacked(together), expected, atol=1e-6)
    assert np.array_equal(together.labels, expected.argmax(0))
    assert np.abs(singles[0] - expected).max() > 0.01


def test_feature_maps_are_those_of_the_first_model():
    save = SavedResults(feature_maps={"normal.2": "all"})
    first, second = network(0), network(1)
    alone = answer(computing(first, save=save), opened()).feature_maps["normal.2"]
    together = answer(computing(first, second, save=save, mirror=["y"]), opened(2)).feature_maps
    assert np.array_equal(together["normal.2"], alone)


@pytest.mark.parametrize(("mirror", "axes"), [(["y"], (1,)), (["x", "z"], (0, 2))])
def test_mirror_images_answer_with_their_mean(mirror, axes):
    own, case = network(), opened()
    answers = []
    for turned in product((False, True), repeat=len(axes)):
        flips = [1 + axis for axis, flip in zip(axes, turned, strict=True) if flip]
        channels = np.ascontiguousarray(np.flip(case.ready[0].channels, flips))
        found = stacked(answer(computing(own), opened(channels=channels)))
        answers.append(np.flip(found, flips))
    together = answer(computing(own, mirror=mirror), case)
    np.testing.assert_allclose(stacked(together), np.mean(answers, axis=0), atol=1e-6)
    assert len(answers) == 2 ** len(axes)


def test_a_symmetric_network_says_the_same_of_a_symmetric_case_mirrored_or_not():
    own = network(subsampled=None)
    for tensor in own.state_dict().values():
        if tensor.ndim == 5:
            tensor.copy_((tensor + tensor.flip(2)) / 2)
    half = opened().ready[0].channels
    case = opened(channels=(half + half[:, ::-1]) / 2)
    plain = stacked(answer(computing(own), case))
    np.testing.assert_allclose(plain, plain[:, ::-1], atol=1e-6)
    mirrored = stacked(answer(computing(own, mirror=["x"]), case))
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


@pytest.mark.parametrize("tile", [(9, 8, 10), (9, 30, 30)], ids=["smaller", "larger"])
def test_overlapping_tiles_answer_with_their_weighted_mean(tile):
    own = network(
        normal={"feature_maps": [3, 4], "padding": ["zero", "none"]}, subsampled=None,
        fc={"feature_maps": [5], "kernels": [3, 1], "padding": ["zero", "none"]},
    )  # fmt: skip
    case = opened()
    padded = np.pad(case.ready[0].channels, [(0, 0), (1, 1), (1, 1), (1, 1)], mode="reflect")
    size = np.minimum(tile, padded.shape[1:])  # of a segment, which predicts 2 voxels less
    starts = []
    for length, n in zip(padded.shape[1:], size, strict=True):
        step = (n - 2) // 2
        starts.append([*range(0, length - n, step), length - n])
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in size - 2]
    window = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    window = np.maximum(window / window.max(), 1e-3)
    total, weights = np.zeros((3, *SHAPE)), np.zeros(SHAPE)
    for start in product(*starts):
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        segment = torch.from_numpy(padded[(slice(None), *cut)].copy())[None]
        with torch.inference_mode():
            shares = own([segment])[0].softmax(0).numpy()
        box = tuple(slice(a, a + n - 2) for a, n in zip(start, size, strict=True))
        total[(slice(None), *box)] += shares * window
        weights[box] += window
    how = computing(own, tiling="deepmedic", overlap=0.5, tile=tile)
    found = stacked(answer(how, case))
    np.testing.assert_allclose(found, total / weights, atol=1e-5)
    plain = stacked(answer(replace(how, inference=Inference(tiling="deepmedic")), case))
    assert np.abs(plain - found).max() > 1e-3


@pytest.mark.parametrize("fc_voxels", [1 << 14, 60], ids=["whole", "in slices"])
@pytest.mark.parametrize("first", [2, 3])
def test_overlapping_tiles_answer_the_same_in_a_region_of_interest(first, fc_voxels, monkeypatch):
    own = network(
        normal={"feature_maps": [3, 4], "padding": ["zero", "none"]}, subsampled=None,
        fc={"feature_maps": [5]},
    )  # fmt: skip
    how = computing(own, tiling="deepmedic", overlap=0.5, tile=(11, 9, 10))
    case = opened()
    everything = stacked(answer(how, case))
    roi = np.zeros(SHAPE, bool)
    roi[first : first + 5, 3:6, 2:5] = roi[first + 5 : first + 8, 1:10, 1:11] = True
    ready = tuple(replace(one, to_compute=roi) for one in case.ready)
    monkeypatch.setattr(boxes, "VOXELS_PER_CALL", 0)  # as close to the region as can be
    monkeypatch.setattr(boxes, "STEP", 1)
    monkeypatch.setattr(fast_volume, "FC_VOXELS", fc_voxels)
    found = stacked(answer(how, replace(case, ready=ready, roi=roi)))
    np.testing.assert_allclose(found[:, roi], everything[:, roi], atol=1e-5)


def test_the_maps_of_doubt_are_those_of_the_mean_and_between_the_answers():
    networks = [network(seed) for seed in range(2)]
    singles = np.stack([stacked(answer(computing(one), opened())) for one in networks])
    save = SavedResults(uncertainty=["entropy", "variance"])
    doubt = answer(computing(*networks, save=save), opened(2)).uncertainty
    mean = singles.mean(0).astype(float)
    entropy = -(mean * np.log(mean)).sum(0) / np.log(3)
    np.testing.assert_allclose(doubt["entropy"], entropy, atol=1e-5)
    np.testing.assert_allclose(doubt["variance"], singles.var(0).mean(0), atol=1e-6)


def test_one_answer_has_an_entropy_too():
    own, save = network(), SavedResults(uncertainty=["entropy"])
    (name,) = answer(computing(own, save=save), opened()).uncertainty
    assert name == "entropy"


def test_rules_for_components_change_labels_and_nothing_else():
    own, case = network(), opened()
    plain = answer(computing(own), case)
    label = int(plain.labels.max())
    voxel_ml = 1.5 * 2.0 * 1.0 / 1000
    rule = {label: Cleaning(min_ml=(plain.labels.size + 0.5) * voxel_ml)}
    cleaned = answer(computing(own, cleaning=rule), case)
    assert label > 0
    assert np.array_equal(cleaned.labels, np.where(plain.labels == label, 0, plain.labels))
    assert np.array_equal(stacked(cleaned), stacked(plain))


@pytest.fixture
def on_disk(tmp_path):
    rng = np.random.default_rng(2)
    for name in ("T1", "FLAIR"):
        image = nibabel.Nifti1Image(rng.normal(5, 3, SHAPE).astype(np.float32), AFFINE)
        nibabel.save(image, tmp_path / f"{name}.nii.gz")
    roi = np.zeros(SHAPE, np.uint8)
    roi[2:-1, 1:-2, 3:] = 1
    nibabel.save(nibabel.Nifti1Image(roi, AFFINE), tmp_path / "roi.nii.gz")
    images = (tmp_path / "T1.nii.gz", tmp_path / "FLAIR.nii.gz")
    return Case("case", images, None, tmp_path / "roi.nii.gz", (), (), False, "cases.csv:2")


def test_every_model_sees_the_case_prepared_its_own_way(on_disk):
    ways = [Preparation(z_score="none"), Preparation(), Preparation(resample=(2.0, 2.0, 1.5))]
    members = [
        replace(one, preparation=way)
        for one, way in zip(computing(*map(network, range(3))).members, ways, strict=True)
    ]
    every = SavedResults(probabilities=True, uncertainty=["entropy"])
    how = replace(computing(network(), save=every), members=tuple(members))
    case = load_case(how, on_disk)
    assert [ready.geometry.spacing_mm for ready in case.ready] == [
        (1.5, 2.0, 1.0), (1.5, 2.0, 1.0), (2.0, 2.0, 1.5),
    ]  # fmt: skip
    singles = []
    for one in members:
        alone = replace(how, members=(one,), save=ALL)
        singles.append(stacked(answer(alone, load_case(alone, on_disk))))
    together = answer(how, case)
    np.testing.assert_allclose(stacked(together), np.mean(singles, axis=0), atol=1e-6)
    outside = np.asarray(nibabel.load(on_disk.roi).dataobj) == 0
    assert not stacked(together)[:, outside].any()
    assert not together.labels[outside].any()
    assert not together.uncertainty["entropy"][outside].any()


RESAMPLED = [(2.0, 2.0, 1.5), (1.0, 1.3, 2.5), (0.7, 0.9, 0.5)]  # the last with smoothing


def resampling(how, spacing):
    way = Preparation(resample=spacing)
    return replace(how, members=tuple(replace(one, preparation=way) for one in how.members))


@pytest.mark.parametrize("edge", [9, 96])
@pytest.mark.parametrize("spacing", RESAMPLED)
def test_a_resampled_case_is_answered_in_all_of_its_roi(on_disk, spacing, edge, monkeypatch):
    monkeypatch.setattr(boxes, "EDGES", (edge,))
    own = network()
    how = resampling(computing(own), spacing)
    case = load_case(how, on_disk)
    ready = case.ready[0]
    everything = replace(ready, to_compute=None)
    plain = predict(own, everything, tile=(99, 99, 99), batch_size=1).probabilities
    back = resample(plain, ready.geometry, case.source.geometry, order=1)
    found = stacked(answer(how, case))
    np.testing.assert_allclose(found[:, case.roi].sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, case.roi], back[:, case.roi], atol=1e-5)
    assert not found[:, ~case.roi].any()


def test_a_resampled_case_is_normalised_over_the_nearest_voxels_of_its_roi(on_disk):
    how = resampling(computing(network()), RESAMPLED[0])
    ready = load_case(how, on_disk).ready[0]
    source = load_case(how, on_disk).source.geometry
    roi = np.asarray(nibabel.load(on_disk.roi).dataobj) > 0
    nearest = resample(roi, source, ready.geometry, order=0)
    assert np.array_equal(ready.roi, nearest)
    assert ready.to_compute.sum() > nearest.sum()
    np.testing.assert_allclose(ready.channels[:, nearest].mean(1), 0, atol=1e-5)


def test_an_ensemble_with_a_resampled_member_is_sure_of_all_of_its_roi(on_disk, monkeypatch):
    how = computing(network(0), network(1))
    members = (how.members[0], resampling(how, RESAMPLED[0]).members[1])
    how, found = replace(how, members=members), []
    for edge in (9, 96):
        monkeypatch.setattr(boxes, "EDGES", (edge,))
        found.append(stacked(answer(how, load_case(how, on_disk))))
    roi = np.asarray(nibabel.load(on_disk.roi).dataobj) > 0
    np.testing.assert_allclose(found[0][:, roi].sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)


@pytest.mark.parametrize("spacing", [None, *RESAMPLED])
def test_block_by_block_an_ensemble_says_the_same(on_disk, spacing, monkeypatch):
    save = SavedResults(probabilities=True, uncertainty=["entropy", "variance"])
    how = computing(network(0), network(1), save=save, mirror=["x", "z"])
    members = (how.members[0], resampling(how, spacing).members[1])
    how = replace(how, members=members)
    case = load_case(how, on_disk)
    whole = answer(how, case)
    monkeypatch.setattr(looks, "THINNEST", 2)
    monkeypatch.setattr(looks, "SHARE_FOR_BLOCKS", 0)
    count = len(looks.blocks(Box((0, 0, 0), SHAPE), 0, []))
    parts = answer(how, case)
    assert count == 6
    assert np.array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(stacked(parts), stacked(whole), atol=1e-5)
    for name, doubt in whole.uncertainty.items():
        np.testing.assert_allclose(parts.uncertainty[name], doubt, atol=1e-5)


def test_a_roi_without_a_voxel_is_answered_with_background(on_disk):
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), on_disk.roi)
    how = resampling(computing(network(), mirror=["x"]), RESAMPLED[0])
    found = answer(how, load_case(how, on_disk))
    assert not found.labels.any()
    assert not stacked(found).any()


def test_too_little_memory_is_said_and_the_case_is_answered():
    how, console = computing(network(), memory="1 MB"), Console(quiet=True)
    found = predict_case(how, opened(), console)
    assert console.warnings == [
        "1 MB of memory is not enough: the smallest boxes are taken, and more memory is used"
    ]
    assert np.array_equal(found.labels, answer(computing(network()), opened()).labels)


def test_a_case_is_prepared_once_for_models_that_want_the_same(on_disk):
    case = load_case(computing(network(0), network(1)), on_disk)
    assert case.ready[0] is case.ready[1]


def test_a_picture_of_a_case_is_the_same_whether_it_is_resampled_or_not(on_disk):
    how = computing(network())
    greys = []
    for one in (how, resampling(how, RESAMPLED[0])):
        image = load_case(one, on_disk).source.array
        greys.append(grey_levels(image, grey_window(image)))
    assert greys[0].shape == SHAPE
    assert greys[0].std() > 0.1
    np.testing.assert_allclose(greys[0], greys[1], atol=1e-5)


def test_labels_are_read_once_whoever_answers_and_weight_maps_never(on_disk, monkeypatch):
    seen = []

    def noted(read, path, *given, **named):
        seen.append(path.name)
        return read(path, *given, **named)

    monkeypatch.setattr(preparation, "read_image", partial(noted, volumes.read_image))
    for module in (opening, preparation):
        monkeypatch.setattr(module, "read_labels", partial(noted, volumes.read_labels))
    labelled = replace(on_disk, labels=on_disk.roi, weight_maps=(on_disk.channels[0],) * 2)
    how = computing(network(0), network(1))
    members = (how.members[0], resampling(how, RESAMPLED[0]).members[1])
    case = load_case(replace(how, members=members), labelled)
    assert np.array_equal(case.truth, np.asarray(nibabel.load(on_disk.roi).dataobj))
    assert sorted(seen) == ["FLAIR.nii.gz"] * 2 + ["T1.nii.gz"] * 2 + ["roi.nii.gz"]


def test_a_case_is_large_by_the_sum_of_all_that_is_prepared_of_it(on_disk, monkeypatch):
    how = computing(*map(network, range(3)), memory="1 GB")
    fine = Preparation(resample=(0.75, 1.0, 0.5))  # eight times as many voxels
    ways = [Preparation(), fine, Preparation()]
    members = [replace(one, preparation=way) for one, way in zip(how.members, ways, strict=True)]
    how = replace(how, members=tuple(members))
    needed = 9 * 2 * 4 * volume(SHAPE)
    for memory, is_too_little in ((4 * needed - 4, True), (4 * needed, False)):
        monkeypatch.setattr(opening.memory, "left", lambda _, memory=memory: memory)
        assert opening.is_large(how, on_disk) is is_too_little


def test_a_resampled_case_that_is_mirrored_comes_back_to_its_own_grid(on_disk):
    way = Preparation(resample=(2.0, 2.0, 1.5))
    how = computing(network())
    how = replace(how, members=(replace(how.members[0], preparation=way),))
    case = load_case(how, on_disk)
    plain = stacked(answer(how, case))
    mirrored = stacked(answer(replace(how, inference=Inference(mirror=["x"])), case))
    assert mirrored.shape == plain.shape == (3, *SHAPE)
    inside = plain.sum(0) > 0
    # Most of an answer is the same from both sides, were it not turned back it would be far off.
    away = np.abs(mirrored - plain)[:, inside].mean()
    turned = np.abs(mirrored - plain[:, ::-1])[:, inside].mean()
    assert away < turned
