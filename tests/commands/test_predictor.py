"""Segmentations from Python are those of ``-test``, bit for bit."""

import json
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

import deepseg
from deepseg.config.cases import Preparation

SAVE = """\
  pictures: false
  probabilities: true
  uncertainty: [entropy]
  feature_maps: {"normal.2": [1, 3]}
"""
CLASSES = ("background", "rim", "core")


@pytest.fixture
def resampled(place, model):
    """The trained model as if its cases had been resampled, R.save."""
    checkpoint = deepseg.load(place / "M.save")
    second = replace(checkpoint, preparation=Preparation(resample=(1.5, 1.5, 2.0)))
    second.write(place / "R.save")


def written(place, ending):
    file = place / f"runs/results/predictions/d_{ending}.nii.gz"
    return np.asarray(nibabel.load(file).dataobj)


def demand_equal(segmentation, place):
    assert np.array_equal(segmentation.labels, written(place, "Segm"))
    assert segmentation.labels.any()
    for label, name in enumerate(CLASSES):
        file = written(place, f"ProbMapClass{label}")
        assert np.array_equal(segmentation.probabilities[name], file), name
    assert np.array_equal(segmentation.uncertainty["entropy"], written(place, "entropy"))
    for number, feature_map in enumerate(segmentation.feature_maps["normal.2"], start=1):
        assert np.array_equal(feature_map, written(place, f"normal.2_fm{number}"))


@pytest.mark.parametrize(
    ("models", "settings"),
    [
        pytest.param("M", {}, id="one model"),
        pytest.param("R", {}, id="resampled"),
        pytest.param("MR", {"mirror": ["x"]}, id="an ensemble, mirrored"),
        pytest.param("M", {"tiling": "deepmedic"}, id="tiles"),
    ],
)
def test_arrays_and_files_have_the_labels_and_maps_of_the_command(
    command, place, resampled, models, settings
):
    place.edit("test.yaml", "  pictures: false\n", SAVE)
    text = (place / "test.yaml").read_text()
    place.write("test.yaml", f"{text}inference: {json.dumps(settings)}\n")
    files = [f"{name}.save" for name in models]
    assert command("-test", "test.yaml", "-model", *files).returncode == 0
    request = {
        "probabilities": True, "uncertainty": ["entropy"], "feature_maps": {"normal.2": (1, 3)},
    }  # fmt: skip
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        predictor = deepseg.Predictor([place / file for file in files], settings, device="cpu")
        folder, affine = place / "data/d", place.image("d/T1.nii.gz").affine
        images = np.stack([place.array(f"d/{name}.nii.gz") for name in ("T1", "FLAIR")])
        roi = place.array("d/roi.nii.gz")
        demand_equal(predictor.segment(images, affine=affine, roi=roi, **request), place)
        paths = {name: folder / f"{name}.nii.gz" for name in ("FLAIR", "T1")}
        demand_equal(predictor.segment(paths, roi=folder / "roi.nii.gz", **request), place)
    finally:
        torch.set_num_threads(threads)


def test_a_saved_segmentation_lies_where_its_images_do(place, model):
    predictor = deepseg.Predictor(place / "M.save", {"accept": ["roi"]}, device="cpu")
    images = [place.image(f"d/{name}.nii.gz") for name in ("T1", "FLAIR")]
    result = predictor.segment(images, probabilities=["core"])
    assert list(result.probabilities) == ["core"]
    file = result.save(place / "labels.nii.gz")
    assert np.array_equal(np.asarray(nibabel.load(file).dataobj), result.labels)
    np.testing.assert_allclose(nibabel.load(file).affine, images[0].affine)
    result.save(place / "core.nii", result.probabilities["core"])
    stored = np.asarray(nibabel.load(place / "core.nii").dataobj)
    assert np.array_equal(stored, result.probabilities["core"])


def test_the_process_of_the_caller_is_as_before(place, model):
    generator, numpy_state = torch.get_rng_state(), np.random.get_state()
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    predictor = deepseg.Predictor(
        place / "M.save", {"mirror": ["y"], "accept": ["roi"]}, device="cpu"
    )
    images = np.stack([place.array(f"d/{name}.nii.gz") for name in ("T1", "FLAIR")])
    before = images.copy()
    predictor.segment(images, spacing_mm=(1, 2, 1.5))
    assert np.array_equal(images, before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(map(np.array_equal, np.random.get_state()[1:], numpy_state[1:]))
    assert (torch.get_num_threads(), torch.is_grad_enabled()) == (threads, grad)


def test_everything_that_is_wrong_with_a_call_comes_at_once(place, model):
    predictor = deepseg.Predictor(place / "M.save", device="cpu")
    with pytest.raises(deepseg.DeepsegError) as error:
        predictor.segment(
            np.zeros((3, 4, 5, 6)), spacing_mm=1, probabilities=["rime"],
            uncertainty=["variance", "doubt"], feature_maps={"normal.9": "all"},
        )  # fmt: skip
    assert [problem.code for problem in error.value.problems] == [
        "class-unknown", "layer-unknown", "uncertainty-unknown", "variance-of-one", "channel-count",
    ]  # fmt: skip


def test_everything_that_is_wrong_with_settings_comes_at_once(place, model):
    with pytest.raises(deepseg.DeepsegError) as error:
        deepseg.Predictor(place / "M.save", {"mirorr": ["x"], "memory": 2})
    assert [(problem.code, problem.where) for problem in error.value.problems] == [
        ("config-unknown-key", "settings mirorr"), ("config-value", "settings memory"),
    ]  # fmt: skip
    with pytest.raises(deepseg.DeepsegError) as error:
        deepseg.Predictor(
            [place / "M.save"], {"overlap": 0.5}, postprocess={"rime": {"keep": "largest"}}
        )
    assert [problem.code for problem in error.value.problems] == [
        "overlap-without-tiles", "class-unknown",
    ]  # fmt: skip
