"""Whole cases through imported models give DeepMedic's probabilities, labels and feature maps."""

import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import deepseg
from deepseg.config.cases import Preparation
from deepseg.data.cases.case import Case
from deepseg.data.images.volumes import read_mask
from deepseg.data.preparation import prepare
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.boxwise.plan import work_units
from deepseg.inference.boxwise.predict import box_predictions
from deepseg.inference.postprocess import most_probable
from deepseg.inference.prediction import Prediction, RequestedMaps
from deepseg.inference.tilewise import predict
from deepseg.transfer.rules import TransferRules

_spec = importlib.util.spec_from_file_location("golden", Path(__file__).with_name("golden.py"))
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

PROBABILITIES = 1e-4
FEATURE_MAPS = 1e-3
LABELS = 0.9999


def case_of(outputs: Path, model: Path) -> Case:
    """The case that ``outputs`` is named after, its channels in alphabetical order."""
    folder = golden.GOLDEN / "cases" / outputs.stem
    roi = next(folder.glob("*mask*"))
    labels = set(folder.glob("OT*"))
    channels = sorted(set(folder.glob("*.nii.gz")) - labels - {roi})
    return Case(
        name=outputs.stem, channels=tuple(channels), labels=None, roi=roi, weight_maps=(),
        label_map=(), trust_arrays=False, where="",
    )  # fmt: skip


def feature_map_names(network, outputs) -> dict[str, tuple[str, int]]:
    """DeepMedic's ``pathway1_layer0_fm3`` → address of the layer and number of the map."""
    pathways = [pathway.name for pathway in (*network.layout.pathways, network.layout.fc)]
    names = {}
    for key in outputs.files:
        match = re.fullmatch(r"pathway(\d+)_layer(\d+)_fm(\d+)", key)
        if match:
            pathway, layer, number = map(int, match.groups())
            names[key] = (f"{pathways[pathway]}.{layer + 1}", number)
    return names


@pytest.mark.parametrize("case", golden.named(golden.inference_cases()))
def test_an_imported_model_says_what_deepmedic_says(case, tmp_path):
    model, outputs = case
    checkpoint = next(model.glob("*.model.ckpt.index"))
    saved = deepseg.new_model(
        model / "model.cfg", pretrained=checkpoint.with_suffix(""),
        rules=TransferRules(layers=("all",)),
        out=tmp_path / "imported.save", quiet=True,
    )  # fmt: skip
    network = deepseg.load(saved).network().eval()
    expected = np.load(outputs)
    maps = feature_map_names(network, expected)
    sample = case_of(outputs, model)
    ready = prepare(sample, Preparation(z_score="none"), network.config.channels)
    ready = replace(ready, to_compute=ready.roi)
    result = predict(
        network, ready, tile=network.config.segment_sizes["inference"], batch_size=4,
        feature_maps={address: slice(None) for address, _ in maps.values()},
    )  # fmt: skip
    fast = BoxwiseNetwork(network)
    todo = work_units(fast, ready, memory=1 << 30, tile=network.config.segment_sizes["inference"])
    labels = range(len(network.config.classes))
    quick = Prediction(ready.shape, len(labels), RequestedMaps(labels))
    for _, piece in box_predictions(fast, ready, todo, labels=labels):
        quick.put(piece)
    roi = read_mask(sample.roi).array
    quick.clear_outside(roi)
    together = np.stack([quick.probabilities[label] for label in labels])
    assert np.abs(together - expected["probabilities"]).max() < PROBABILITIES
    probabilities = result.probabilities * roi
    assert np.abs(probabilities - expected["probabilities"]).max() < PROBABILITIES
    agreement = most_probable(probabilities) == expected["segmentation"]
    assert agreement.mean() >= LABELS
    off = {
        key: float(np.abs(result.feature_maps[address][number] - expected[key]).max())
        for key, (address, number) in maps.items()
    }
    assert {key: value for key, value in off.items() if value > FEATURE_MAPS} == {}
