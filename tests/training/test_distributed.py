"""Parts of a batch on several ranks against the whole batch on one: the same step.

The ranks are processes of this machine that come together in a file.
"""

import copy
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import yaml

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Sgd, Steps
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import Batch
from deepseg.model.checkpoint import new_checkpoint
from deepseg.training.distributed import SINGLE_RANK, Ranks, synchronise_batch_norm
from deepseg.training.freezing import freeze, trainable
from deepseg.training.optimization import Optimizer
from deepseg.training.tally import Tally
from deepseg.training.trainer import Trainer
from deepseg.transfer.imported import read_imported
from tests.imported_networks import IMPORTED_MODEL, write_encoder
from tests.networks import small_network

CONFIG = {
    "channels": ["T1"],
    "classes": ["background", "core", "rim"],
    "normal": {"feature_maps": [4, 5], "residuals": [2]},
    "subsampled": {"factors": [3]},
    "fc": {"feature_maps": [6], "dropout": [0, 0]},
    "segments": {"train": [13, 15, 17]},
}
SIZES = (5, 3, 1)  # of batches; two ranks have 3 + 2, 2 + 1 and 1 + 0
CASES = {
    "cross-entropy": ({}, {}),
    "weights by frequency": ({"class_weights": {"type": "frequency"}}, {}),
    "overlaps": ({"cross_entropy": 0, "dice": 1, "iou": 0.5}, {}),
    "strong penalties": ({"l1": 0.01, "l2": 0.1}, {}),
    "clipped": ({}, {"clip_norm": 0.1}),
    "accumulated": ({"dice": 1}, {"accumulate": 2}),
}
FROZEN = Freeze(layers=("normal.1", "sub1.*"))


def network(**changes):
    return small_network(seed=1, **{**CONFIG, **changes}).double()


def batches(net):
    """Of different sizes, with brighter segments first and some unknown voxels."""
    rng = torch.Generator().manual_seed(2)
    new = []
    for size in SIZES:
        bright = torch.linspace(3, -1, size).view(-1, 1, 1, 1, 1)
        image = (torch.randn(size, 1, 13, 15, 17, generator=rng) + bright).double()
        coarse = (torch.randn(size, 1, 7, 8, 9, generator=rng) * bright).double()
        shape = net([image, coarse]).shape[2:] if new == [] else new[0].labels.shape[1:]
        labels = torch.randint(-1, 3, (size, *shape), generator=rng)
        new.append(Batch((image, coarse), labels, tuple(f"case{n}" for n in range(size))))
    return new


def part(batch, ranks):
    """The samples of this rank, as `SegmentLoader` gives them."""
    places = slice(ranks.rank, None, ranks.world_size)
    if not batch.cases[places]:
        unknown = torch.full_like(batch.labels[:1], -1)
        return Batch(tuple(x[:1] for x in batch.inputs), unknown, ())
    return Batch(tuple(x[places] for x in batch.inputs), batch.labels[places], batch.cases[places])


def learnt(net, ranks, loss, steps, freeze_as=None):
    """Weights and statistics after a step per batch, and what training and validation say."""
    net = copy.deepcopy(net)
    if freeze_as is not None:
        freeze(net, freeze_as)
    rule = Sgd(name="sgd", learning_rate=0.1, momentum=0.5)
    trainer = Trainer(
        net, Optimizer(trainable(net), rule), Loss.model_validate(loss),
        steps=Steps.model_validate(steps), ranks=ranks, dtype=torch.float64,
    )  # fmt: skip
    tally, values = Tally(3), []
    parts = [part(batch, ranks) for batch in batches(net)]
    trainer.train(parts, tally, epoch=0, epochs=4, on_step=values.append)
    return dict(net.state_dict()), values, tally.scores(), trainer.validate(parts)


def imported_network(file):
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(file)))
    imported = read_imported(ModelConfig.model_validate(values), file)
    return new_checkpoint(imported.config, seed=1, imported=imported.weights).network()


def imported_learnt(ranks, file):
    """Weights and statistics of an imported network after a step per batch."""
    net = imported_network(file)
    trainer = Trainer(
        net, Optimizer(trainable(net), Sgd(name="sgd", learning_rate=0.05)), Loss(), ranks=ranks
    )
    rng = torch.Generator().manual_seed(3)
    parts = []
    for size in SIZES:
        image = torch.randn(size, 2, 20, 20, 20, generator=rng)
        image += torch.linspace(3, -1, size).view(-1, 1, 1, 1, 1)
        labels = torch.randint(-1, 3, (size, 12, 12, 12), generator=rng)
        whole = Batch((image,), labels, tuple(f"case{n}" for n in range(size)))
        parts.append(part(whole, ranks))
    trainer.train(parts, Tally(3), epoch=0, epochs=4, on_step=lambda _: None)
    return dict(net.state_dict())


def everything(ranks, file):
    """Everything that both one rank and two compute."""
    result = {name: learnt(network(), ranks, *mode) for name, mode in CASES.items()}
    result["frozen"] = learnt(network(), ranks, {}, {}, FROZEN)
    window = {"batch_norm": {"statistics": "window", "length": 2}}
    result["window"] = learnt(network(**window), ranks, {}, {})
    result["without norm"] = learnt(network(batch_norm="none"), ranks, {}, {})
    return result | {"imported": (imported_learnt(ranks, file),)}


def one_rank(rank, folder, file):
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=300)
    )
    ranks = Ranks(rank, 2)
    new = ranks.broadcast(lambda: f"by rank {rank}")
    torch.save(
        {"learnt": everything(ranks, file), "made": new, "gathered": ranks.all_gather([rank, 5])},
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("onnx") / "net.onnx"
    write_encoder(file)
    return file


@pytest.fixture(scope="module")
def two(tmp_path_factory, onnx_file):
    """What each of two ranks has computed."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(one_rank, (str(folder), onnx_file), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


@pytest.fixture(scope="module")
def alone(onnx_file):
    return everything(SINGLE_RANK, onnx_file)


HOW = [*CASES, "frozen", "window", "without norm"]


@pytest.mark.parametrize("how", HOW)
def test_two_ranks_make_the_steps_of_one_with_the_whole_batch(two, alone, how):
    weights, values, training, judged = alone[how]
    result, rest, trained, validated = two[0]["learnt"][how]
    for name, weight in weights.items():
        torch.testing.assert_close(result[name], weight, rtol=1e-6, atol=1e-8, msg=name)
    assert rest == pytest.approx(values, rel=1e-5)
    assert trained.confusion == training.confusion
    assert validated.confusion == judged.confusion
    assert validated.loss == pytest.approx(judged.loss, rel=1e-5)


def test_two_ranks_train_an_imported_network_as_one(two, alone, onnx_file):
    """Its batch normalisation learns, with the statistics of the whole batch."""
    (weights,), (result,) = alone["imported"], two[0]["learnt"]["imported"]
    begun = imported_network(onnx_file).state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(result[name], weight, rtol=1e-4, atol=1e-6, msg=name)
        assert not torch.equal(weight, begun[name]), name


@pytest.mark.parametrize("how", [*HOW, "imported"])
def test_all_ranks_have_the_same_bits(two, how):
    (first, *rest), (second, *same) = (rank["learnt"][how] for rank in two)
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert rest == same


def test_frozen_layers_stay_as_they_are_on_all_ranks(two):
    begun = network().state_dict()
    for rank in two:
        weights = rank["learnt"]["frozen"][0]
        still = [name for name in begun if name.startswith(("normal.1.", "sub1."))]
        assert len(still) == 10
        assert all(torch.equal(weights[name], begun[name]) for name in still)
        assert not torch.equal(weights["normal.2.conv.weight"], begun["normal.2.conv.weight"])


def test_rank_0_makes_for_all_and_items_come_in_the_order_of_ranks(two):
    assert [rank["made"] for rank in two] == ["by rank 0"] * 2
    assert [rank["gathered"] for rank in two] == [[0, 5, 1, 5]] * 2


def test_alone_nothing_is_added():
    rank = torch.ones(2)
    assert SINGLE_RANK.all_reduce_sum(rank)[0] is rank
    assert SINGLE_RANK.sum_counts([3, 4]) == [3, 4]
    assert SINGLE_RANK.all_gather(["a"]) == ["a"]
    net = network()
    synchronise_batch_norm(net, SINGLE_RANK)
    assert all(getattr(layer.norm, "sync_statistics", None) is None for layer in net.layers())
