"""Frozen layers keep every bit through 20 steps: alone, after going on, and in two processes."""

import hashlib

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import AdamW
from deepseg.data.segments.loader import Batch
from deepseg.geometry.boxes import Box
from deepseg.storage.save_file import SaveFile, read_save, write_save
from deepseg.training.freezing import freeze, trainable
from deepseg.training.loss import loss
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from tests.networks import small_network

FREEZE = Freeze(layers=("normal.1-3", "fc.1"))
FROZEN = ("normal.1.", "normal.2.", "normal.3.", "fc.1.")
RULE = AdamW(name="adamw", learning_rate=0.01, weight_decay=0.1)
LOSS = Loss(l2=0.05)
PROCESSES = 2


def network(statistics="exponential"):
    return small_network(
        seed=4,
        normal={"feature_maps": [3, 4, 5, 4]},
        fc={"feature_maps": [6]},
        segments={"train": [11, 12, 13]},
        batch_norm={"statistics": statistics, "length": 4},
    )


def batch(net, number):
    """The same for the same number, whoever asks."""
    rng = np.random.default_rng([6, number])
    box = Box((0, 0, 0), (11, 12, 13))
    return Batch(
        tuple(
            torch.tensor(rng.normal(size=(2, 2, *points.count)), dtype=torch.float32)
            for points in net.geometry.lattices(box)
        ),
        torch.tensor(rng.integers(0, 3, (2, *net.geometry.prediction(box).size))),
        ("one", "two"),
    )


def fingerprints(net):
    return {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
        for name, tensor in net.state_dict().items()
    }


def learn(net, optimizer, numbers):
    torch.manual_seed(numbers[0])  # for dropout
    batches = (batch(net, number) for number in numbers)
    Trainer(net, optimizer, LOSS).train(batches, Tally(3), epoch=0, epochs=1)


def check(before, after):
    assert len([name for name in before if name.startswith(FROZEN)]) > 15
    for name in before:
        assert (before[name] == after[name]) == name.startswith(FROZEN), name


@pytest.mark.parametrize("statistics", ["exponential", "window"])
def test_twenty_steps_change_every_tensor_but_the_frozen_ones(statistics):
    net = network(statistics)
    freeze(net, FREEZE)
    before = fingerprints(net)
    learn(net, Optimizer(trainable(net), RULE), range(20))
    check(before, fingerprints(net))


def test_the_same_holds_for_a_run_that_went_on(tmp_path):
    net = network()
    freeze(net, FREEZE)
    before = fingerprints(net)
    first = Optimizer(trainable(net), RULE)
    learn(net, first, range(9))
    state = {"optimizer": first.state_dict()}
    file = tmp_path / "half.save"
    write_save(file, SaveFile(model={}, weights=net.state_dict(), training=state))

    saved = read_save(file)
    again = network()
    again.load_state_dict(saved.weights)
    freeze(again, FREEZE)
    second = Optimizer(trainable(again), RULE)
    second.load_state_dict(saved.training["optimizer"])
    learn(again, second, range(9, 20))
    check(before, fingerprints(again))
    learn(net, first, range(9, 20))
    assert fingerprints(again) == fingerprints(net)


def _rank(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES
    )
    net = network()
    freeze(net, FREEZE)
    parallel = DistributedDataParallel(net)
    optimizer = Optimizer(trainable(net), RULE)
    kernels = [weight for _, weight in net.convolution_weights() if weight.requires_grad]
    parallel.train()
    for number in range(20):
        share = batch(net, PROCESSES * number + rank)
        optimizer.clear_gradients()
        result = loss(parallel(share.inputs), share.labels, kernels, LOSS, torch.ones(3))
        result.total.backward()
        optimizer.step()
    torch.save(net.state_dict(), f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_same_holds_for_two_processes_and_both_end_with_the_same_weights(tmp_path):
    torch.multiprocessing.spawn(_rank, args=(str(tmp_path),), nprocs=PROCESSES)
    before, ends = fingerprints(network()), []
    for rank in range(PROCESSES):
        net = network()
        net.load_state_dict(torch.load(tmp_path / f"rank{rank}.pt", weights_only=True))
        check(before, fingerprints(net))
        ends.append(net)
    first, second = ends
    for name, weight in first.named_parameters():
        assert torch.equal(weight, second.get_parameter(name)), name
