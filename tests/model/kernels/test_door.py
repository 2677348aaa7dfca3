"""The door of the kernels: nobody goes past it, and behind the switch networks are plain torch."""

from pathlib import Path

import pytest
import torch

from deepseg.model import kernels
from tests.networks import network_inputs, small_network, trained_network

PACKAGE = Path(__file__).resolve().parents[3] / "deepseg"
MID = {
    "normal": {"feature_maps": [3, 4, 5], "residuals": [3], "low_rank": [2]},
    "fc": {"feature_maps": [15, 6], "kernels": [3, 1, 1], "padding": ["mirror", "none", "none"],
           "residuals": [2]},
    "segments": {"train": [11, 13, 12]},
}  # fmt: skip
SEGMENT = (11, 13, 12)


def test_nobody_goes_past_the_door():
    outside = [p for p in PACKAGE.rglob("*.py") if PACKAGE / "model/kernels" not in p.parents]
    assert [p.name for p in outside if "deepseg.model.kernels." in p.read_text("utf-8")] == []


def test_quick_routines_are_used_on_processors_unless_they_are_switched_off():
    x = torch.zeros(1, 1, 2, 3, 4)
    assert kernels.are_used(x)
    assert not kernels.are_used(x.to("meta"))
    with kernels.switched_off():
        assert not kernels.are_used(x)
    assert kernels.are_used(x)


def test_the_switch_is_turned_back_after_an_error():
    with pytest.raises(ValueError, match="inside"), kernels.switched_off():
        raise ValueError("inside")
    assert kernels.are_used(torch.zeros(1))


class Recorded(torch.overrides.TorchFunctionMode):
    """Notes the functions of torch that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", str(function)))
        return function(*args, **({} if kwargs is None else kwargs))


def test_a_network_without_kernels_calls_plain_convolutions_only():
    network = small_network(**MID)
    with kernels.switched_off(), Recorded() as calls:
        network(network_inputs(network, SEGMENT))
    assert {"conv3d", "native_batch_norm", "prelu"} <= calls.names
    assert {name for name in calls.names if "mkldnn" in name} == set()


@pytest.mark.parametrize("activation", ["prelu", "elu"])
def test_a_network_can_be_exported(activation):
    network = trained_network(**MID, activation=activation)
    inputs = network_inputs(network, SEGMENT)
    program = torch.export.export(network, (inputs,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(inputs), network(inputs))
