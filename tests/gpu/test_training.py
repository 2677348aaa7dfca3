"""Training on a pretended GPU: the steps of the processor, in every setting."""

import copy
from pathlib import Path

import pytest
import torch
import yaml

from deepseg.config.blocks.freezing import Freeze
from deepseg.config.model import ModelConfig
from deepseg.data.segments.loader import Batch
from deepseg.model.checkpoint import new_checkpoint
from deepseg.training import loss as loss_module
from deepseg.transfer.imported import read_imported
from tests.gpu import pretended
from tests.gpu.steps import (
    CPU,
    assert_alike,
    assert_same_steps,
    batches_of,
    learnt,
    on_host,
    trainer_of,
)
from tests.imported_networks import IMPORTED_MODEL, write_encoder
from tests.networks import small_network

FC = {"feature_maps": [11, 6], "residuals": [2], "dropout": [0, 0, 0]}
MIRRORED = {**FC, "kernels": [3, 1, 1], "padding": ["mirror", "none", "none"]}
NORMAL = {"feature_maps": [3, 4, 5], "residuals": [3]}
MODELS = {
    "three resolutions": {},
    "a single pathway": {"subsampled": None},
    "an unpadded first FC layer": {"fc": {**FC, "kernels": [3, 1, 1]}},
    "borders of zeros": {"fc": {**FC, "kernels": [[3, 5, 1], 1, 1], "padding": "zero"}},
    "a wide mirrored border": {"fc": {**MIRRORED, "kernels": [[5, 4, 1], 1, 1]}},
    "a head alone": {"fc": {"feature_maps": []}},
    "flat kernels": {"normal": {**NORMAL, "low_rank": [2, 3]}},
    "padded pathways": {"normal": {"feature_maps": [3, 4], "padding": ["zero", "mirror"]}},
    "linear": {"activation": "linear"},
    "relu": {"activation": "relu"},
    "elu": {"activation": "elu"},
    "selu": {"activation": "selu"},
    "no normalisation": {"batch_norm": "none"},
    "statistics of a window": {"batch_norm": {"statistics": "window", "length": 2}},
}
LOSSES = {
    "weights by frequency": {"class_weights": {"type": "frequency"}},
    "weights as given": {"class_weights": {"type": "given", "weights": [1, 2, 3]}},
    "overlaps": {"cross_entropy": 0, "dice": 1, "iou": 0.5},
    "strong penalties": {"l1": 0.01, "l2": 0.1},
    "no penalties": {"l1": 0, "l2": 0},
}
STEPS = {"clipped": {"clip_norm": 0.1}, "accumulated": {"accumulate": 2}}
FLOAT32 = {"rtol": 1e-3, "atol": 1e-5}
FREEZING = {
    "layers": Freeze(layers=("normal.1", "sub1.*")),
    "with norms that learn": Freeze(layers=("normal.1-2",), batch_norm="train"),
    "below a layer": Freeze(stop_gradient="fc.1"),
}


def network(**changes):
    settings = {"normal": NORMAL, "subsampled": {"factors": [3, [2, 1, 4]]}, "fc": MIRRORED}
    return small_network(seed=3, **{**settings, **changes}).double()


@pytest.mark.parametrize("kind", MODELS)
def test_every_kind_of_model_learns_as_on_the_processor(kind):
    assert_same_steps(network(**MODELS[kind]))


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_is_that_of_the_processor(kind):
    assert_same_steps(network(), loss=LOSSES[kind])


@pytest.mark.parametrize("kind", STEPS)
def test_every_kind_of_step_is_that_of_the_processor(kind):
    assert_same_steps(network(), steps=STEPS[kind])


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_every_optimiser_moves_as_on_the_processor(name):
    assert_same_steps(network(), optimiser={"name": name})


def test_weights_are_pulled_to_those_of_the_start():
    assert_same_steps(network(), anchored=True)


@pytest.mark.parametrize("kind", FREEZING)
def test_frozen_layers_stay_as_on_the_processor(kind):
    assert_same_steps(network(), frozen=FREEZING[kind])


def imported_network(folder):
    write_encoder(folder / "net.onnx")
    values = yaml.safe_load(IMPORTED_MODEL.replace("net.onnx", str(folder / "net.onnx")))
    imported = read_imported(ModelConfig.model_validate(values), folder / "model.yaml")
    return new_checkpoint(imported.config, seed=1, imported=imported.weights).network()


def random_batches(shape, labels, sizes=(3, 2)):
    rng = torch.Generator().manual_seed(4)
    return [
        Batch(
            (torch.randn(size, 2, *shape, generator=rng),),
            torch.randint(-1, 3, (size, *labels), generator=rng),
            ("case",) * size,
        )
        for size in sizes
    ]


def test_an_imported_network_learns_as_on_the_processor(tmp_path):
    batches = random_batches((20, 20, 20), (12, 12, 12))
    assert_same_steps(imported_network(tmp_path), batches, **FLOAT32)


def test_a_u_net_learns_as_on_the_processor_with_deep_supervision():
    levels = [{"feature_maps": 4}, {"feature_maps": 3}, {"feature_maps": 2, "stride": [2, 2, 1]}]
    blocks = {"unet": {"levels": levels}, "fc": "none", "segments": {"train": 16}}
    values = {"channels": ["T1", "FLAIR"], "classes": ["background", "a", "b"], **blocks}
    config = read_imported(ModelConfig.model_validate(values), Path("model.yaml")).config
    batches = random_batches((16, 16, 16), (16, 16, 16))
    unet = new_checkpoint(config, seed=1).network()
    assert_same_steps(unet, batches, loss={"deep_supervision": True, "dice": 1}, **FLOAT32)


def test_dropout_switches_off_its_share_on_the_device():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropping = network(fc={**FC, "dropout": [0.25, 0.5, 0.5]})
        batches = batches_of(dropping)
        there = learnt(trainer_of(dropping, pretended.set_up()), batches)["values"]
    without = learnt(trainer_of(network(fc=FC), CPU), batches)["values"]
    assert all(0 < abs(a - b) < 1 for a, b in zip(there, without, strict=True))


def test_bfloat16_steps_are_those_of_the_processor_but_for_rounding():
    net = network(activation="relu").float()
    batches = batches_of(net, sizes=(4,))
    weights = [
        learnt(trainer_of(net, device, dtype=torch.bfloat16), batches)["weights"]
        for device in (pretended.set_up(), CPU)
    ]
    exact = learnt(trainer_of(net, CPU), batches)["weights"]
    for name, weight in exact.items():
        if name.endswith("running_mean"):
            there, here = (on_host(item[name]) for item in weights)
            assert not torch.equal(there, weight), name  # maps are rounded to 8 bits
            torch.testing.assert_close(there, here, rtol=0.02, atol=0.01)


def test_an_optimiser_that_is_restored_on_another_device_goes_on():
    net, batches = network(), batches_of(network())
    first = trainer_of(net, pretended.set_up(), optimiser={"name": "adam"})
    learnt(first, batches, validates=False)
    state = {
        **first.optimizer.state_dict(),
        "state": {
            name: {kind: on_host(tensor) for kind, tensor in state.items()}
            for name, state in first.optimizer.state.items()
        },
    }
    weights = {name: on_host(weight) for name, weight in first.network.state_dict().items()}
    results = []
    for device in (pretended.set_up(), CPU):
        again = copy.deepcopy(net)
        again.load_state_dict(weights)
        trainer = trainer_of(again, device, optimiser={"name": "adam"})
        trainer.optimizer.load_state_dict(state)
        results.append(learnt(trainer, batches))
    assert_alike(*results)


def test_a_sub_epoch_that_failed_is_undone_on_the_device():
    net = network()
    batches = batches_of(net)
    trainer = trainer_of(net, pretended.set_up())
    before = trainer.snapshot()
    first = learnt(trainer, batches)
    trainer.restore(before)
    assert_alike(learnt(trainer, batches)["weights"], first["weights"], rtol=0, atol=0)


def test_a_tensor_that_is_forgotten_on_the_host_is_noticed(monkeypatch):
    """The test of the tests: this is what they would say."""
    plain = loss_module.class_masks
    monkeypatch.setattr(loss_module, "class_masks", lambda *words: plain(*words).cpu())
    trainer = trainer_of(network(), pretended.set_up(), loss={"dice": 1})
    with pytest.raises(pretended.DeviceMismatch, match=r"in training/loss.py:\d+ "):
        learnt(trainer, batches_of(network()))


def test_an_array_of_a_tensor_on_the_device_is_refused():
    x = torch.zeros(2, device=pretended.set_up())
    with pytest.raises(TypeError, match="can't convert pretended:0"):
        x.numpy()


@pytest.mark.parametrize("kind", ["three resolutions", "statistics of a window"])
def test_training_needs_no_numbers_of_64_bits_on_the_device(kind):
    """Apple's GPUs have none."""
    net = network(**MODELS[kind]).float()
    settings = {"loss": {"dice": 1, "class_weights": {"type": "frequency"}}, "anchored": True}
    with pretended.without(torch.float64):
        learnt(trainer_of(net, pretended.set_up(), **settings), batches_of(net))
