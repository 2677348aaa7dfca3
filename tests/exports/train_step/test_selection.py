"""Words for the layers that learn on a device."""

import pytest

from deepseg.config.blocks.freezing import Freeze
from deepseg.errors import DeepsegError
from deepseg.exports.train_step.selection import trained_layers
from deepseg.model.layout import layout
from deepseg.training.freezing import freeze
from tests.networks import small_config, small_network

PLAN = layout(small_config(normal={"feature_maps": [3, 4, 5]}))


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("head", ("fc.2",)),
        ("fc.1,head", ("fc.1", "fc.2")),
        ("tune:head", ("fc.1", "fc.2")),
        ("tune:last:1", ("normal.3", "sub1.3", "fc.1", "fc.2")),
        ("tune:all", PLAN.order),
        ("normal.2-3, sub*.1", ("normal.2", "normal.3", "sub1.1")),
        ("all", PLAN.order),
    ],
)
def test_words_name_layers(words, layers):
    assert trained_layers(words, PLAN) == layers


@pytest.mark.parametrize("words", ["", "tune:", "tune:last:0", "tune:first:1", "last:1"])
def test_words_that_name_none_are_refused(words):
    with pytest.raises(DeepsegError, match="train-layers"):
        trained_layers(words, PLAN)


@pytest.mark.parametrize("preset", ["head", "last:1", "last:2", "last:9", "all"])
def test_a_preset_means_what_it_means_in_a_session(preset):
    network = small_network(normal={"feature_maps": [3, 4, 5]})
    frozen = freeze(network, Freeze(tune=preset))
    assert set(trained_layers(f"tune:{preset}", PLAN)) == set(PLAN.order) - set(frozen)


def test_a_layer_that_is_not_there_is_named():
    with pytest.raises(DeepsegError, match=r"layer-unknown.*'fc\.7'"):
        trained_layers("fc.7", PLAN)
