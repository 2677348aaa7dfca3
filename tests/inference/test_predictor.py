"""Cases through several models, mirrored, tile by tile: against single predictions, and numpy."""

from dataclasses import replace
from functools import partial
from itertools import product

import nibabel
import numpy as np
import pytest
import torch

from deepseg.config.cases import Preparation
from deepseg.data import preparation
from deepseg.data.cases.case import Case
from deepseg.data.images import volumes
from deepseg.data.images.resampling import resample
from deepseg.data.images.volumes import Geometry, new_volume
from deepseg.data.preparation import PreparedCase
from deepseg.geometry.boxes import Box, volume
from deepseg.inference import loaded_case
from deepseg.inference.ensemble import blocks, views
from deepseg.inference.limits import Limits
from deepseg.inference.loaded_case import LoadedCase
from deepseg.inference.predictor import Listener, Predictor, Tiles
from deepseg.inference.tilewise import predict
from deepseg.model.checkpoint import Checkpoint
from deepseg.report.console import Console
from deepseg.report.overlay import grey_levels, grey_window
from tests.networks import trained_network

SHAPE = (13, 11, 12)
AFFINE = np.diag([1.5, 2.0, 1.0, 1.0])
SCORED = Preparation()


def loaded(members=1, channels=None):
    if channels is None:
        channels = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    geometry = Geometry(SHAPE, AFFINE)
    case = PreparedCase(
        "case", channels, None, None, None, geometry, new_volume(channels[0], geometry)
    )
    return LoadedCase("case", (case,) * members, None)


def checkpoint(network, preparation=SCORED):
    return Checkpoint(network.config, network.state_dict(), preparation)


def predictor(*networks, preparations=(), tile=None, rules=None, **options):
    """On the CPU; ``preparations`` of the networks, if they are not all alike."""
    ways = preparations or (SCORED,) * len(networks)
    limits = options.pop("limits", Limits())
    console = options.pop("console", Console(quiet=True))
    return Predictor(
        [checkpoint(network, way) for network, way in zip(networks, ways, strict=True)],
        options,
        device="cpu",
        postprocess=rules,
        tiles=Tiles(tile, 4),
        listener=Listener(console.warn, console.progress),
        limits=limits,
    )


def maps(segmentation):
    return np.stack([segmentation.probabilities[name] for name in ("background", "a", "b")])


def probabilities(own, case):
    return maps(own.segment(case, probabilities=True))


def test_several_models_predict_their_mean():
    networks = [trained_network(seed) for seed in range(3)]
    singles = [probabilities(predictor(network), loaded()) for network in networks]
    mean = predictor(*networks).segment(loaded(3), probabilities=True)
    expected = np.mean(singles, axis=0)
    np.testing.assert_allclose(maps(mean), expected, atol=1e-6)
    assert np.array_equal(mean.labels, expected.argmax(0))
    assert np.abs(singles[0] - expected).max() > 0.01


def test_feature_maps_are_those_of_the_first_model():
    first, second = trained_network(0), trained_network(1)
    request = {"feature_maps": {"normal.2": "all"}}
    single = predictor(first).segment(loaded(), **request).feature_maps["normal.2"]
    several = predictor(first, second, mirror=["y"]).segment(loaded(2), **request).feature_maps
    assert np.array_equal(several["normal.2"], single)
    assert single.shape == (4, *SHAPE)


@pytest.mark.parametrize(("mirror", "axes"), [(["y"], (1,)), (["x", "z"], (0, 2))])
def test_mirror_images_predict_their_mean(mirror, axes):
    network, case, predictions = trained_network(), loaded(), []
    for turned in product((False, True), repeat=len(axes)):
        flips = [1 + axis for axis, flip in zip(axes, turned, strict=True) if flip]
        channels = np.ascontiguousarray(np.flip(case.prepared[0].channels, flips))
        prediction = probabilities(predictor(network), loaded(channels=channels))
        predictions.append(np.flip(prediction, flips))
    mean = probabilities(predictor(network, mirror=mirror), case)
    np.testing.assert_allclose(mean, np.mean(predictions, axis=0), atol=1e-6)
    assert len(predictions) == 2 ** len(axes)


def test_a_symmetric_network_says_the_same_of_a_symmetric_case_mirrored_or_not():
    network = trained_network(subsampled=None)
    for tensor in network.state_dict().values():
        if tensor.ndim == 5:
            tensor.copy_((tensor + tensor.flip(2)) / 2)
    half = loaded().prepared[0].channels
    case = loaded(channels=(half + half[:, ::-1]) / 2)
    plain = probabilities(predictor(network), case)
    np.testing.assert_allclose(plain, plain[:, ::-1], atol=1e-6)
    mirrored = probabilities(predictor(network, mirror=["x"]), case)
    np.testing.assert_allclose(mirrored, plain, atol=1e-6)


@pytest.mark.parametrize("tile", [(9, 8, 10), (9, 30, 30)], ids=["smaller", "larger"])
def test_overlapping_tiles_predict_their_weighted_mean(tile):
    network = trained_network(
        normal={"feature_maps": [3, 4], "padding": ["zero", "none"]}, subsampled=None,
        fc={"feature_maps": [5], "kernels": [3, 1], "padding": ["zero", "none"]},
    )  # fmt: skip
    case = loaded()
    padded = np.pad(case.prepared[0].channels, [(0, 0), (1, 1), (1, 1), (1, 1)], mode="reflect")
    size = np.minimum(tile, padded.shape[1:])  # of a segment, which predicts 2 voxels less
    starts = []
    for length, n in zip(padded.shape[1:], size, strict=True):
        step = (n - 2) // 2
        starts.append([*range(0, length - n, step), length - n])
    axes = [np.exp(-0.5 * ((np.arange(n) - (n - 1) / 2) / (n / 8)) ** 2) for n in size - 2]
    window = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    window = np.maximum(window, 1e-3)
    total, weights = np.zeros((3, *SHAPE)), np.zeros(SHAPE)
    for start in product(*starts):
        cut = tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))
        segment = torch.from_numpy(padded[(slice(None), *cut)].copy())[None]
        with torch.inference_mode():
            shares = network([segment])[0].softmax(0).numpy()
        box = tuple(slice(a, a + n - 2) for a, n in zip(start, size, strict=True))
        total[(slice(None), *box)] += shares * window
        weights[box] += window
    settings = {"tiling": "deepmedic", "tile": tile}
    mean = probabilities(predictor(network, overlap=0.5, **settings), case)
    np.testing.assert_allclose(mean, total / weights, atol=1e-5)
    plain = probabilities(predictor(network, **settings), case)
    assert np.abs(plain - mean).max() > 1e-3


@pytest.mark.parametrize("fc_voxels", [1 << 14, 60], ids=["whole", "in slices"])
@pytest.mark.parametrize("first", [2, 3])
def test_overlapping_tiles_predict_the_same_in_a_region_of_interest(first, fc_voxels):
    network = trained_network(
        normal={"feature_maps": [3, 4], "padding": ["zero", "none"]}, subsampled=None,
        fc={"feature_maps": [5]},
    )  # fmt: skip
    settings = {"tiling": "deepmedic", "overlap": 0.5, "tile": (11, 9, 10)}
    case = loaded()
    everything = probabilities(predictor(network, **settings), case)
    roi = np.zeros(SHAPE, bool)
    roi[first : first + 5, 3:6, 2:5] = roi[first + 5 : first + 8, 1:10, 1:11] = True
    cases = tuple(replace(prepared, to_compute=roi) for prepared in case.prepared)
    # As close to the region as can be.
    limits = Limits(voxels_per_call=0, step=1, fc_voxels=fc_voxels)
    close = predictor(network, limits=limits, **settings)
    prediction = probabilities(close, replace(case, prepared=cases, roi=roi))
    np.testing.assert_allclose(prediction[:, roi], everything[:, roi], atol=1e-5)


def test_uncertainty_maps_are_the_entropy_of_the_mean_and_the_variance_between_predictions():
    networks = [trained_network(seed) for seed in range(2)]
    singles = np.stack([probabilities(predictor(network), loaded()) for network in networks])
    several = predictor(*networks).segment(loaded(2), uncertainty=["entropy", "variance"])
    mean = singles.mean(0).astype(float)
    entropy = -(mean * np.log(mean)).sum(0) / np.log(3)
    np.testing.assert_allclose(several.uncertainty["entropy"], entropy, atol=1e-5)
    np.testing.assert_allclose(several.uncertainty["variance"], singles.var(0).mean(0), atol=1e-6)


def test_a_single_prediction_has_an_entropy_too():
    (name,) = predictor(trained_network()).segment(loaded(), uncertainty=["entropy"]).uncertainty
    assert name == "entropy"


def test_rules_for_components_change_labels_and_nothing_else():
    network, case = trained_network(), loaded()
    plain = predictor(network).segment(case, probabilities=True)
    label = int(plain.labels.max())
    voxel_ml = 1.5 * 2.0 * 1.0 / 1000
    rules = {"_ab"[label]: {"min_ml": (plain.labels.size + 0.5) * voxel_ml}}
    cleaned = predictor(network, rules=rules).segment(case, probabilities=True)
    assert label > 0
    assert np.array_equal(cleaned.labels, np.where(plain.labels == label, 0, plain.labels))
    assert np.array_equal(maps(cleaned), maps(plain))


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
    networks = [trained_network(seed) for seed in range(3)]
    ensemble = predictor(*networks, preparations=ways)
    case = ensemble.load(on_disk)
    assert [prepared.geometry.spacing_mm for prepared in case.prepared] == [
        (1.5, 2.0, 1.0), (1.5, 2.0, 1.0), (2.0, 2.0, 1.5),
    ]  # fmt: skip
    singles = [
        probabilities(predictor(network, preparations=[way]), on_disk)
        for network, way in zip(networks, ways, strict=True)
    ]
    mean = ensemble.segment(case, probabilities=True, uncertainty=["entropy"])
    np.testing.assert_allclose(maps(mean), np.mean(singles, axis=0), atol=1e-6)
    outside = np.asarray(nibabel.load(on_disk.roi).dataobj) == 0
    assert not maps(mean)[:, outside].any()
    assert not mean.labels[outside].any()
    assert not mean.uncertainty["entropy"][outside].any()


RESAMPLED = [(2.0, 2.0, 1.5), (1.0, 1.3, 2.5), (0.7, 0.9, 0.5)]  # the last with smoothing


def resampling(spacing):
    return Preparation(resample=spacing)


@pytest.mark.parametrize("edge", [9, 96])
@pytest.mark.parametrize("spacing", RESAMPLED)
def test_a_resampled_case_is_predicted_in_all_of_its_roi(on_disk, spacing, edge):
    network, limits = trained_network(), Limits(edges=(edge,))
    segmenter = predictor(network, preparations=[resampling(spacing)], limits=limits)
    case = segmenter.load(on_disk)
    everything = replace(case.prepared[0], to_compute=None)
    plain = predict(network, everything, tile=(99, 99, 99), batch_size=1).probabilities
    back = resample(plain, everything.geometry, case.source.geometry, order=1)
    prediction = probabilities(segmenter, case)
    np.testing.assert_allclose(prediction[:, case.roi].sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(prediction[:, case.roi], back[:, case.roi], atol=1e-5)
    assert not prediction[:, ~case.roi].any()


def test_a_resampled_case_is_normalised_over_the_nearest_voxels_of_its_roi(on_disk):
    case = predictor(trained_network(), preparations=[resampling(RESAMPLED[0])]).load(on_disk)
    prepared = case.prepared[0]
    roi = np.asarray(nibabel.load(on_disk.roi).dataobj) > 0
    nearest = resample(roi, case.source.geometry, prepared.geometry, order=0)
    assert np.array_equal(prepared.roi, nearest)
    assert prepared.to_compute.sum() > nearest.sum()
    np.testing.assert_allclose(prepared.channels[:, nearest].mean(1), 0, atol=1e-5)


def test_an_ensemble_with_a_resampled_member_is_sure_of_all_of_its_roi(on_disk):
    ways = (SCORED, resampling(RESAMPLED[0]))
    networks = trained_network(0), trained_network(1)
    small, large = (
        probabilities(predictor(*networks, preparations=ways, limits=Limits((edge,))), on_disk)
        for edge in (9, 96)
    )
    roi = np.asarray(nibabel.load(on_disk.roi).dataobj) > 0
    np.testing.assert_allclose(small[:, roi].sum(0), 1, atol=1e-5)
    np.testing.assert_allclose(small, large, atol=1e-5)


@pytest.mark.parametrize("spacing", [None, *RESAMPLED])
def test_block_by_block_an_ensemble_predicts_the_same(on_disk, spacing):
    networks, ways = (trained_network(0), trained_network(1)), (SCORED, resampling(spacing))
    request = {"probabilities": True, "uncertainty": ["entropy", "variance"]}
    thin = Limits(thinnest_block=2, blocks_share=0)
    whole, parts = (
        predictor(*networks, preparations=ways, mirror=["x", "z"], limits=limits).segment(
            on_disk, **request
        )
        for limits in (Limits(), thin)
    )
    member = predictor(*networks, limits=thin).members[:1]
    (view,) = views(member, loaded().prepared, Geometry(SHAPE, AFFINE))
    assert len(blocks(Box((0, 0, 0), SHAPE), 0, [view])) == 6
    assert np.array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(maps(parts), maps(whole), atol=1e-5)
    for name, uncertainty in whole.uncertainty.items():
        np.testing.assert_allclose(parts.uncertainty[name], uncertainty, atol=1e-5)


def test_a_roi_without_a_voxel_is_background(on_disk):
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), on_disk.roi)
    segmenter = predictor(trained_network(), preparations=[resampling(RESAMPLED[0])], mirror=["x"])
    segmentation = segmenter.segment(on_disk, probabilities=True)
    assert not segmentation.labels.any()
    assert not maps(segmentation).any()


def test_too_little_memory_is_a_warning_and_the_case_is_segmented():
    console = Console(quiet=True)
    segmenter = predictor(trained_network(), memory="1 MB", console=console)
    segmentation = segmenter.segment(loaded())
    assert console.warnings == [
        "1 MB of memory is not enough: the smallest boxes are taken, and more memory is used"
    ]
    expected = predictor(trained_network()).segment(loaded()).labels
    assert np.array_equal(segmentation.labels, expected)


def test_a_case_is_prepared_once_for_models_with_one_preparation(on_disk):
    case = predictor(trained_network(0), trained_network(1)).load(on_disk)
    assert case.prepared[0] is case.prepared[1]


def test_a_picture_of_a_case_is_the_same_with_and_without_resampling(on_disk):
    greys = []
    for way in (SCORED, resampling(RESAMPLED[0])):
        image = predictor(trained_network(), preparations=[way]).load(on_disk).source.array
        greys.append(grey_levels(image, grey_window(image)))
    assert greys[0].shape == SHAPE
    assert greys[0].std() > 0.1
    np.testing.assert_allclose(greys[0], greys[1], atol=1e-5)


def test_labels_are_read_once_for_all_models_and_weight_maps_never(on_disk, monkeypatch):
    files = []

    def noted(read, path, *others, **named):
        files.append(path.name)
        return read(path, *others, **named)

    monkeypatch.setattr(preparation, "read_image", partial(noted, volumes.read_image))
    for module in (loaded_case, preparation):
        monkeypatch.setattr(module, "read_labels", partial(noted, volumes.read_labels))
    labelled = replace(on_disk, labels=on_disk.roi, weight_maps=(on_disk.channels[0],) * 2)
    ways = (SCORED, resampling(RESAMPLED[0]))
    case = predictor(trained_network(0), trained_network(1), preparations=ways).load(labelled)
    assert np.array_equal(case.truth, np.asarray(nibabel.load(on_disk.roi).dataobj))
    assert sorted(files) == ["FLAIR.nii.gz"] * 2 + ["T1.nii.gz"] * 2 + ["roi.nii.gz"]


def test_a_case_is_large_by_the_sum_of_all_its_preparations(on_disk, monkeypatch):
    fine = Preparation(resample=(0.75, 1.0, 0.5))  # eight times as many voxels
    segmenter = predictor(*map(trained_network, range(3)), preparations=(SCORED, fine, SCORED))
    needed = 9 * 2 * 4 * volume(SHAPE)
    for memory, is_too_little in ((4 * needed - 4, True), (4 * needed, False)):
        monkeypatch.setattr("deepseg.inference.memory.left", lambda _, memory=memory: memory)
        assert segmenter.is_large(on_disk) is is_too_little


def test_a_resampled_case_that_is_mirrored_comes_back_to_its_own_grid(on_disk):
    network, ways = trained_network(), [resampling((2.0, 2.0, 1.5))]
    plain = probabilities(predictor(network, preparations=ways), on_disk)
    mirrored = probabilities(predictor(network, preparations=ways, mirror=["x"]), on_disk)
    assert mirrored.shape == plain.shape == (3, *SHAPE)
    inside = plain.sum(0) > 0
    # Both directions agree in most of a prediction: were it not turned back it would be far off.
    away = np.abs(mirrored - plain)[:, inside].mean()
    turned = np.abs(mirrored - plain[:, ::-1])[:, inside].mean()
    assert away < turned
