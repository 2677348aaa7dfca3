"""Budgets of launches and waits: raise one only knowingly."""

import math
from collections import Counter

import pytest
import torch

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import Batch
from deepseg.errors import NumericalFailure
from deepseg.geometry.boxes import Box
from deepseg.model.kernels import StatisticsSync, normalised_together
from deepseg.model.network import Network
from deepseg.training.distributed import Ranks
from deepseg.training.tally import Tally
from tests.gpu import pretended
from tests.gpu.steps import batches_of, learnt, trainer_of
from tests.networks import small_network

DEFAULT_MODEL = "configs/model/deepmedic.yaml"
FC = {"feature_maps": [5], "dropout": [0, 0]}


def default_step(root, *, statistics="exponential", batch=10, **settings):
    """Launches and waits of a sub-epoch of one step of the default model, and those of its end."""
    values = load(ModelConfig, root / DEFAULT_MODEL).config.model_dump(mode="json")
    config = ModelConfig.model_validate({**values, "batch_norm": {"statistics": statistics}})
    network = Network(config, rng=torch.Generator().manual_seed(1))
    segment = Box((0, 0, 0), (37, 37, 37))
    inputs = [torch.zeros(batch, 2, *grid.count) for grid in network.geometry.lattices(segment)]
    labels = torch.zeros(batch, *network.geometry.prediction(segment).size, dtype=torch.int64)
    segments = Batch(tuple(inputs), labels, ("case",) * batch)
    with pretended.shapes_only():
        settings = {"averaged": False, "optimiser": {"name": "rmsprop"}, **settings}
        trainer = trainer_of(network, pretended.set_up(), **settings)
        with pretended.recorded() as ending:
            trainer.train([], Tally(5), epoch=0, epochs=4)
        with pretended.recorded() as record:
            trainer.train([segments], Tally(5), epoch=0, epochs=4)
    # The end of a sub-epoch with steps reads their losses and counts too.
    return record.launched - ending.launched, len(record.waits) - len(ending.waits), ending


@pytest.mark.parametrize(
    ("settings", "launches"),
    [
        pytest.param({}, 350, id="as it is"),
        pytest.param(
            {"averaged": True, "loss": {"class_weights": {"type": "frequency"}}},
            370,
            id="a moving average and class weights",
        ),
        pytest.param(
            {"statistics": "window", "dtype": torch.bfloat16}, 705, id="a window in bfloat16"
        ),
    ],
)
def test_a_step_of_the_default_model_starts_few_kernels_and_waits_once(request, settings, launches):
    launched, waits, ending = default_step(request.config.rootpath, **settings)
    of_losses, of_counts = 1, 3  # launches with which a sub-epoch reads what its steps have left
    assert launched <= launches + of_losses + of_counts
    assert waits == 1 + 2  # for the loss; and for losses and counts, once in a sub-epoch
    assert (ending.launched <= 20, len(ending.waits)) == (True, 1), ending.text()


COLLECTIVES = ("all_reduce", "all_gather_into_tensor")


@pytest.fixture
def two_ranks(monkeypatch):
    """Two ranks with equal parts, of which this is one; and the collectives that it takes part in.

    Sums are twice this rank's, gathered rows are alike.
    """
    calls = Counter()

    def all_reduce(x):
        calls[x.device.type] += 1
        x.mul_(2)

    def all_gather_into_tensor(table, row):
        calls[row.device.type] += 1
        table.view(2, -1).copy_(row.expand(2, -1))

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    monkeypatch.setattr("torch.distributed.all_gather_into_tensor", all_gather_into_tensor)
    return Ranks(0, 2), calls


def test_two_gpus_meet_twice_per_norm_and_wait_as_often_as_one(request, two_ranks):
    ranks, calls = two_ranks
    launched, waits, _ = default_step(request.config.rootpath, ranks=ranks)
    assert launched <= 490 + 51  # the sums of this test are launches too
    assert waits == 1 + 2
    norms, loss, gradients, counts_of_the_sub_epoch = 2 * 24, 2, 1, 1
    assert calls == {pretended.NAME: norms + loss + gradients, "cpu": counts_of_the_sub_epoch}


@pytest.mark.parametrize("kind", ["exponential", "window"])
def test_a_batch_in_two_equal_parts_is_trained_as_one_of_them(two_ranks, kind):
    """Of two parts that are alike, the whole has the statistics, losses and gradients of one."""
    ranks, _ = two_ranks
    network = small_network(
        seed=3, normal={"feature_maps": [3, 4, 5], "residuals": [3]}, fc=FC,
        batch_norm={"statistics": kind, "length": 2},
    ).double()  # fmt: skip
    batches = batches_of(network)
    settings = {"loss": {"class_weights": {"type": "frequency"}, "dice": 1}}
    device = pretended.set_up()
    there = learnt(trainer_of(network, device, ranks=ranks, **settings), batches)
    here = learnt(trainer_of(network, torch.device("cpu"), **settings), batches)
    for name, weight in here["weights"].items():
        torch.testing.assert_close(
            there["weights"][name].cpu(), weight, rtol=1e-5, atol=1e-7, msg=name
        )
    assert there["values"] == pytest.approx(here["values"], rel=1e-6)
    # The counts are those of both parts; ratios are those of one.
    assert there["training"].confusion.accuracy == here["training"].confusion.accuracy


def test_a_rank_without_a_part_leaves_the_statistics_and_the_weights_of_the_others(monkeypatch):
    """Rank 1 of two has no segment of the batch: its gradients are those of the penalties."""

    def all_gather_into_tensor(table, row):
        table.view(2, -1)[0].fill_(1.0)  # rank 0 has 1 voxel with mean 1 and deviation 1
        table.view(2, -1)[1].copy_(row)

    monkeypatch.setattr("torch.distributed.all_reduce", lambda x: x)
    monkeypatch.setattr("torch.distributed.all_gather_into_tensor", all_gather_into_tensor)
    network = small_network(seed=3, fc=FC).double()
    trainer = trainer_of(network, pretended.set_up(), ranks=Ranks(1, 2), loss={"l1": 0, "l2": 0})
    (batch,) = batches_of(network, sizes=(1,))
    stand_in = Batch(batch.inputs, torch.full_like(batch.labels, -1), ())
    trainer.train([stand_in], Tally(3), epoch=0, epochs=4)
    weights = dict(trainer.network.named_parameters())
    assert all(weight.grad.cpu().abs().max() == 0 for weight in weights.values())
    norm = trainer.network.get_submodule("normal.2.norm")
    assert norm.running_mean.cpu().tolist() == pytest.approx([0.1] * 3)  # 0 + 0.1 (1 - 0)
    assert norm.running_var.cpu().tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_maps_beside_the_batch_do_not_move_its_statistics():
    """Their gradient is the scale alone: 3 times one over a deviation of 2."""
    sync = StatisticsSync(
        gather=lambda row: torch.stack([torch.full_like(row, 0.5), row]),
        all_reduce_sum=lambda sums: sums + 5,
        has_part=False,
    )
    device = pretended.set_up()
    x = torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0)).to(device)
    x.requires_grad_()
    weight, bias = torch.full((1,), 3.0).to(device), torch.zeros(1).to(device)
    y, *_ = normalised_together(x, weight, bias, 1e-9, sync)
    y.sum().backward()
    assert x.grad.flatten().cpu().numpy().tolist() == pytest.approx([1.5] * 8, rel=1e-5)


@pytest.mark.parametrize("sick", ["inputs", "weights"])
def test_values_that_are_not_finite_are_found_on_the_device(sick):
    network = small_network(seed=3, fc=FC)
    trainer = trainer_of(network, pretended.set_up())
    (batch,) = batches_of(network, sizes=(2,))
    before = {name: w.cpu().clone() for name, w in trainer.network.named_parameters()}
    if sick == "inputs":
        batch.inputs[0][0, 0, 5, 5, 5] = math.nan
        with pytest.raises(NumericalFailure, match="loss-not-finite"):
            trainer.train([batch], Tally(3), epoch=0, epochs=4)
        for name, weight in trainer.network.named_parameters():
            assert torch.equal(weight.cpu(), before[name])
    else:
        trainer.optimizer.state["fc.2.bias"]["square"].fill_(math.inf)
        with pytest.raises(NumericalFailure, match=r"square of fc\.2\.bias"):
            trainer.train([], Tally(3), epoch=0, epochs=4)


def test_a_value_that_is_read_in_every_step_is_counted(monkeypatch):
    """The test of the budget: a wait that somebody adds is noticed, with its place."""
    network = small_network(seed=3, fc=FC)
    trainer, batches = trainer_of(network, pretended.set_up()), batches_of(network)
    counts = []
    for patched in (False, True):
        if patched:
            monkeypatch.setattr(Tally, "add", lambda _tally, total, *_rest: total.item())
        with pretended.recorded() as record:
            trainer.train(batches, Tally(3), epoch=0, epochs=4)
        counts.append([name for name, _ in record.waits])
    assert counts[0].count("_local_scalar_dense") == 1  # the weights are finite
    assert counts[1].count("_local_scalar_dense") == 1 + len(batches)
