"""Imported networks in training: what several ranks would compute otherwise is refused."""

import pytest
import torch
import yaml

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.network import Network
from deepseg.training.distributed import Ranks, synchronise_batch_norm
from deepseg.training.freezing import freeze
from deepseg.transfer.imported import read_imported
from tests.imported_networks import IMPORTED_MODEL, write_encoder


@pytest.fixture
def network(tmp_path):
    write_encoder(tmp_path / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(tmp_path / "net.onnx")))
    config = read_imported(ModelConfig.model_validate(values), tmp_path / "model.yaml").config
    return Network(config, rng=torch.Generator()).train()


def test_statistics_of_a_part_of_the_batch_are_refused(network):
    with pytest.raises(DeepsegError) as error:
        synchronise_batch_norm(network, Ranks(rank=0, world_size=2))
    assert str(error.value) == (
        "[imported-ranks] got batch normalisation of imported1 that learns, in 2 processes; "
        "expected statistics that are frozen, or one process; fix: freeze the layers of its batch "
        "normalisation, or train in one process"
    )


def test_frozen_statistics_are_those_of_every_rank(network):
    freeze(network, Freeze(layers=("imported1.*",)))
    synchronise_batch_norm(network, Ranks(rank=0, world_size=2))
