"""Addresses and depths of layers, before there is a network."""

import pytest

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout
from tests.networks import small_config

THREE_LAYERS = {
    "normal": {"feature_maps": [3, 4, 5]},
    "subsampled": {"factors": [3, [2, 1, 4]]},
    "fc": {"feature_maps": [6]},
    "segments": {"train": [13, 11, 15]},
}


def model(**changes) -> ModelConfig:
    return small_config(**{**THREE_LAYERS, **changes})


def test_layers_can_be_named_by_ranges_and_wildcards():
    plan = layout(model())
    assert plan.addresses(["normal.2-3", "sub*.1", "head"]) == (
        "normal.2",
        "normal.3",
        "sub1.1",
        "sub2.1",
        "fc.2",
    )


def test_a_name_of_no_layer_is_refused_with_the_nearest_one():
    with pytest.raises(DeepsegError) as refusal:
        layout(model()).addresses(["nromal.1", "fc.9"])
    assert str(refusal.value) == (
        "[layer-unknown] got 'nromal.1'; expected layers of normal.1-3, sub1.1-3, sub2.1-3, "
        "fc.1-2; fix: name layers as pathway.number or pathway.first-last; did you mean "
        "'normal.1'?\n"
        "[layer-unknown] got 'fc.9'; expected layers of normal.1-3, sub1.1-3, sub2.1-3, fc.1-2; "
        "fix: name layers as pathway.number or pathway.first-last; did you mean 'fc.2'?"
    )


def test_depth_counts_parallel_layers_together_and_fc_layers_behind_the_longest():
    config = model(
        subsampled={"factors": [3], "feature_maps": [2, 7], "kernels": [3, [5, 5, 5]]}, fc={}
    )
    assert {layer.address: layer.depth for layer in layout(config)} == {
        "normal.1": 1, "normal.2": 2, "normal.3": 3, "sub1.1": 1, "sub1.2": 2, "fc.1": 4,
    }  # fmt: skip
