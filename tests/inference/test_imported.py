"""Imported networks in tiles: small ones make what a single one makes of the whole case."""

import numpy as np
import pytest
import yaml

from deepseg.config.model import ModelConfig
from deepseg.inference.predictor import Predictor, Tiles
from deepseg.model.checkpoint import new_checkpoint
from deepseg.transfer.imported import read_imported
from tests.imported_networks import IMPORTED_MODEL, write_encoder

IMAGE = np.random.default_rng(3).normal(size=(2, 37, 30, 26)).astype(np.float32)
BESIDE = {"normal": {"feature_maps": [3, 4]}, "subsampled": {"factors": [3]}}


def checkpoint(folder, *, padding, output, margin, **changes):
    write_encoder(folder / "net.onnx", padding=padding)
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(folder / "net.onnx")))
    values["imported"][0] |= {"output": output, "margin": margin}
    config = ModelConfig.model_validate(values | changes)
    imported = read_imported(config, folder / "model.yaml")
    return new_checkpoint(imported.config, seed=1, imported=imported.weights)


def probabilities(model, tile, **settings):
    predictor = Predictor(
        model, settings, device="cpu", preparation={"z_score": "none"}, tiles=Tiles((tile,) * 3)
    )
    return predictor.segment(IMAGE, spacing_mm=1, probabilities=True).probabilities["rim"]


@pytest.mark.parametrize(
    ("settings", "small", "whole"),
    [
        ({"padding": 1, "output": "last_act", "margin": 4}, 20, 64),
        ({"padding": 1, "output": ["act", "last_act"], "margin": 5}, 24, 64),
        ({"padding": 0, "output": "last_act", "margin": 0}, 22, 66),
        ({"padding": 0, "output": ["act", "last_act"], "margin": 0}, 22, 66),
        ({"padding": 1, "output": "last_act", "margin": 4, **BESIDE}, 17, 64),
    ],
    ids=["padded", "two resolutions", "cropped", "cropped at two resolutions", "beside others"],
)
def test_tiles_make_what_the_whole_image_makes(tmp_path, settings, small, whole):
    model = checkpoint(tmp_path, **settings)
    assert model.network().layout.sees_whole
    assert np.allclose(probabilities(model, small), probabilities(model, whole), atol=1e-5)


def test_a_margin_smaller_than_the_reach_is_noticed(tmp_path):
    model = checkpoint(tmp_path, padding=1, output="last_act", margin=3)
    assert not model.network().layout.sees_whole
    part, whole = (probabilities(model, tile, overlap=0.0) for tile in (20, 64))
    assert not np.allclose(part, whole, atol=1e-5)
