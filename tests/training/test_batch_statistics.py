"""Layers that would normalise a single value: found before training, with the numbers."""

import pytest
import torch

from deepseg.config.training import TrainConfig
from deepseg.model.layers import Norm
from deepseg.training.batch_statistics import distinct_values, single_value_problems
from tests.networks import network_inputs, small_config, small_network


def train_config(batch_size=1, segments=8, **settings):
    return TrainConfig.model_validate(
        {
            "name": "a",
            "output": "runs",
            "training": {
                "cases": {"table": "cases.csv"},
                "batch_size": batch_size,
                "segments_per_subepoch": segments,
            },
            **settings,
        }
    )


def found(config, **model):
    return [str(problem) for problem in single_value_problems(config, small_config(**model))]


@pytest.mark.parametrize("segment", [(7, 8, 9), (11, 7, 6), (5, 5, 6)])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"subsampled": {"factors": [3, 5]}, "fc": {"feature_maps": [5, 6], "kernels": [1, 3, 1]}},
        {"normal": {"feature_maps": [3, 4], "padding": ["none", "zero"]}},
        {"subsampled": None},
    ],
)
def test_the_values_are_those_that_the_layers_of_a_network_read(segment, settings):
    network = small_network(**settings).eval()
    if min(network.layout.prediction_size(segment)) < 1:
        segment = tuple(n + 4 for n in segment)
    counts = {}

    def count(address):
        def hook(_, inputs):
            maps = inputs[0][0].flatten(1)
            counts[address] = min(len(torch.unique(values)) for values in maps)

        return hook

    for layer in network.layers():
        if isinstance(layer.norm, Norm):
            layer.register_forward_pre_hook(count(layer.plan.address))
    network(network_inputs(network, segment, batch=1))
    assert distinct_values(network.layout, segment) == counts


def test_a_batch_of_one_segment_that_predicts_one_voxel_is_refused():
    assert found(train_config(), segments={"train": 5}) == [
        "[batch-norm-one-value] got one value per feature map for the batch normalisation of fc.1, "
        "fc.2, in a batch: 1 segment of 5 x 5 x 5 voxels; expected several, since a single value "
        "is normalised to 0 and teaches nothing; fix: raise batch_size, or enlarge segments.train "
        "of the model"
    ]


def test_the_last_batch_of_a_subepoch_counts_too():
    assert found(train_config(batch_size=7), segments={"train": 5}) == [
        "[batch-norm-one-value] got one value per feature map for the batch normalisation of fc.1, "
        "fc.2, in the last batch of 8 segments by 7: 1 segment of 5 x 5 x 5 voxels; expected "
        "several, since a single value is normalised to 0 and teaches nothing; fix: choose "
        "segments_per_subepoch without such a rest, or enlarge segments.train of the model"
    ]


def test_one_coarse_voxel_repeated_is_one_value():
    (problem,) = found(train_config(), segments={"train": [7, 6, 5]})
    assert "of fc.1, in a batch: 1 segment of 7 x 6 x 5 voxels" in problem


@pytest.mark.parametrize(
    ("config", "model"),
    [
        pytest.param(train_config(batch_size=2), {"segments": {"train": 5}}, id="two segments"),
        pytest.param(train_config(batch_size=8), {"segments": {"train": 5}}, id="one batch"),
        pytest.param(train_config(), {"segments": {"train": 8}}, id="several voxels"),
        pytest.param(
            train_config(), {"segments": {"train": 5}, "batch_norm": "none"}, id="no batch norm"
        ),
        pytest.param(
            train_config(freeze={"layers": ["fc.1-2"]}), {"segments": {"train": 5}}, id="frozen"
        ),
    ],
)
def test_several_values_are_no_problem(config, model):
    assert found(config, **model) == []
