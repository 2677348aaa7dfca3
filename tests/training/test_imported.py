"""Imported networks in training: what several ranks would compute otherwise is refused."""

import copy

import pytest
import torch
import yaml

from deepseg.config.model import ModelConfig
from deepseg.model.network import Network
from deepseg.training.batch_statistics import distinct_values
from deepseg.transfer.imported import read_imported
from tests.imported_networks import IMPORTED_MODEL, write_encoder


@pytest.fixture
def network(tmp_path):
    write_encoder(tmp_path / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(tmp_path / "net.onnx")))
    config = read_imported(ModelConfig.model_validate(values), tmp_path / "model.yaml").config
    return Network(config, rng=torch.Generator()).train()


def test_a_batch_in_one_part_is_normalised_as_by_torch(network):
    """The way of several ranks, with a single part: what one process computes anyway."""
    second = copy.deepcopy(network)
    for name in ("imported1", "fc"):
        for module in network.get_submodule(name).modules():
            if hasattr(module, "sync_statistics"):
                module.sync_statistics = lambda statistics: statistics
    x = torch.randn(2, 2, 20, 20, 20, generator=torch.Generator().manual_seed(0))
    results = [net([x]) for net in (network, second)]
    assert torch.allclose(*results, atol=1e-5)
    for y in results:
        y.square().mean().backward()
    for (name, new), old in zip(
        network.named_parameters(), dict(second.named_parameters()).values(), strict=True
    ):
        assert torch.allclose(new.grad, old.grad, rtol=1e-3, atol=1e-6), name
    states = [net.state_dict() for net in (network, second)]
    moved = [name for name in states[0] if "running" in name]
    assert len(moved) == 8
    for name in moved:
        assert torch.allclose(states[0][name], states[1][name], atol=1e-6), name


def test_values_that_imported_norms_read_are_counted(network):
    """20 voxels with stride 2: 10 of the second norm; 4 are thrown away before 5 blocks of 2."""
    assert distinct_values(network.layout, (20, 20, 24)) == {
        "imported1.norm": 20 * 20 * 24,
        "imported1.down_norm": 10 * 10 * 12,
        "fc.1": 6 * 6 * 8,
        "fc.2": 12 * 12 * 16,
    }
