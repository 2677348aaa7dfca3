"""The moving average: against its recursion in float64, and what it leaves alone."""

import copy

import pytest
import torch

from deepseg.training.weight_averaging import WeightAverage
from tests.networks import small_network


def network():
    batch_norm = {"statistics": "window", "length": 4}
    return small_network(
        seed=4, subsampled=None, segments={"train": [7, 8, 9]}, batch_norm=batch_norm
    )


def moved(net, step):
    with torch.no_grad():
        for number, tensor in enumerate(net.state_dict().values()):
            tensor.add_(step + number)


@pytest.mark.parametrize("memory", [0.3, 0.999])
def test_the_average_is_its_recursion(memory):
    net = network()
    average = WeightAverage(net, memory)
    expected = {name: t.double() for name, t in net.state_dict().items()}
    for step in range(6):
        moved(net, step)
        average.update()
        remaining = min(memory, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            expected[name] = remaining * expected[name] + (1 - remaining) * tensor.double()
    for name, mean in average.network.state_dict().items():
        target = expected[name] if mean.is_floating_point() else net.state_dict()[name]
        torch.testing.assert_close(mean.double(), target.double(), rtol=1e-5, atol=1e-6)
    assert average.steps == 6


def test_what_does_not_move_keeps_every_bit_and_the_followed_network_is_untouched():
    net = network()
    before = copy.deepcopy(net.state_dict())
    average = WeightAverage(net, 0.9)
    for _ in range(5):
        average.update()
    for name, tensor in before.items():
        assert torch.equal(average.network.state_dict()[name], tensor)
        assert torch.equal(net.state_dict()[name], tensor)


def test_it_goes_on_where_another_one_stopped():
    net = network()
    whole, first = WeightAverage(net, 0.99), WeightAverage(net, 0.99)
    for step in range(3):
        moved(net, step)
        whole.update()
        first.update()
    second = WeightAverage(net, 0.99)
    second.load_state_dict(first.state_dict())
    moved(net, 3)
    whole.update()
    second.update()
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(second.network.state_dict()[name], tensor)
