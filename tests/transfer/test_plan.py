"""Older models into new ones: what is taken over, what stays, and what is refused."""

import gzip
import hashlib
import pickle

import numpy as np
import pytest
import torch
import yaml

import deepseg
from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.sources.deepmedic import variables, weights

MODEL = """\
name: small
channels: [T1, FLAIR]
classes: [background, lesion, cyst]
normal: {feature_maps: [3, 4], low_rank: [2]}
subsampled: {factors: [3], low_rank: []}
fc: {feature_maps: [5]}
segments: {train: 9}
batch_norm: {statistics: window, length: 7}
"""


@pytest.fixture
def model_file(tmp_path):
    (tmp_path / "model.yaml").write_text(MODEL)
    return tmp_path / "model.yaml"


def config(text: str = MODEL) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load(text))


def test_deepmedics_names_follow_the_order_of_creation():
    names = {variable.name: variable.weight for variable in variables(layout(config()))}
    assert names == {
        "b": "normal.1.input_bias",
        "W": "normal.1.conv.weight",
        "gBn": "normal.2.norm.weight",
        "bBn": "normal.2.norm.bias",
        "muBnsForRollingAverage": "normal.2.norm.running_mean",
        "varBnsForRollingAverage": "normal.2.norm.running_var",
        "aPrelu": "normal.2.activation.weight",
        "w_x": "normal.2.conv.xy.weight",
        "w_y": "normal.2.conv.yz.weight",
        "w_z": "normal.2.conv.xz.weight",
        "b_1": "sub1.1.input_bias",
        "W_1": "sub1.1.conv.weight",
        "gBn_1": "sub1.2.norm.weight",
        "bBn_1": "sub1.2.norm.bias",
        "muBnsForRollingAverage_1": "sub1.2.norm.running_mean",
        "varBnsForRollingAverage_1": "sub1.2.norm.running_var",
        "aPrelu_1": "sub1.2.activation.weight",
        "W_2": "sub1.2.conv.weight",
        "gBn_2": "fc.1.norm.weight",
        "bBn_2": "fc.1.norm.bias",
        "muBnsForRollingAverage_2": "fc.1.norm.running_mean",
        "varBnsForRollingAverage_2": "fc.1.norm.running_var",
        "aPrelu_2": "fc.1.activation.weight",
        "W_3": "fc.1.conv.weight",
        "gBn_3": "fc.2.norm.weight",
        "bBn_3": "fc.2.norm.bias",
        "muBnsForRollingAverage_3": "fc.2.norm.running_mean",
        "varBnsForRollingAverage_3": "fc.2.norm.running_var",
        "aPrelu_3": "fc.2.activation.weight",
        "W_4": "fc.2.conv.weight",
        "b_2": "fc.2.bias",
    }


def arrays_for(plan) -> dict[str, np.ndarray]:
    """Random arrays under DeepMedic's names, rings of 4 rows, and scratch variables."""
    rng = np.random.default_rng(0)
    state = {}
    for variable in variables(plan):
        layer = next(item for item in plan if variable.weight.startswith(f"{item.address}."))
        part = variable.weight.removeprefix(f"{layer.address}.")
        if part.startswith("conv"):
            plane = part.removeprefix("conv").removesuffix("weight").strip(".")
            outputs, kernel = layer.convolutions[plane]
            shape = (outputs, layer.inputs, *kernel)
        else:
            shape = (layer.outputs if part == "bias" else layer.inputs,)
        ring = (4,) if "Rolling" in variable.name else ()
        state[f"net/{variable.name}"] = rng.normal(size=(*ring, *shape)).astype(np.float32)
    return {**state, "net/sharedNewMu_B": np.zeros(4), "trainer/init_lr": np.zeros(())}


def test_rings_become_their_mean_and_come_along():
    plan = layout(config(MODEL.replace("low_rank: [2]", "low_rank: []")))
    arrays = arrays_for(plan)
    result = weights(arrays, plan)
    ring = arrays["net/muBnsForRollingAverage_1"]
    assert np.allclose(result["sub1.2.norm.running_mean"], ring.mean(0))
    assert np.array_equal(result["sub1.2.norm.window_mean"], ring)
    assert np.array_equal(result["fc.2.bias"], arrays["net/b_2"])
    assert int(result["sub1.2.norm.steps"]) == 0


def test_a_checkpoint_of_another_network_is_refused_by_its_first_misfit():
    plan = layout(config(MODEL.replace("low_rank: [2]", "low_rank: []")))
    arrays = arrays_for(plan)
    arrays["net/extra"] = np.zeros((2, 3))
    fix = (
        "fix: give the model file that the checkpoint was trained with (-layers all makes a .save "
        "of it, from which any other model can be filled)"
    )

    def refusal() -> str:
        with pytest.raises(DeepsegError) as refused:
            weights(arrays, plan)
        return str(refused.value)

    assert refusal() == (
        "[checkpoint-does-not-fit] got variable extra of shape [2, 3]; expected only variables "
        f"that the model file has layers for; {fix}"
    )
    del arrays["net/b_2"]
    assert refusal() == (
        "[checkpoint-does-not-fit] got no such variable for b_2, and 1 more misfits; expected "
        f"shape [3] of fc.2.bias; {fix}"
    )
    arrays["net/W_1"] = arrays["net/W_1"][:2]
    assert refusal() == (
        "[checkpoint-does-not-fit] got shape [2, 3, 3, 3, 3] for W_1, and 2 more misfits; expected "
        f"shape [4, 3, 3, 3, 3] of normal.2.conv.weight; {fix}"
    )


def filled(model_file, old, **choices):
    return deepseg.new_model(model_file, pretrained=old, quiet=True, **choices)


def test_a_model_of_the_same_layers_gives_all_but_its_head(model_file, tmp_path):
    old = deepseg.new_model(model_file, out=tmp_path / "old.save", seed=1)
    new = filled(model_file, old, out=tmp_path / "new.save", seed=2)
    fresh = deepseg.load(deepseg.new_model(model_file, out=tmp_path / "fresh.save", seed=2)).weights
    source, result = deepseg.load(old).weights, deepseg.load(new).weights
    for name, tensor in result.items():
        assert torch.equal(tensor, (fresh if name.startswith("fc.2.") else source)[name]), name
    assert not torch.equal(source["fc.2.conv.weight"], fresh["fc.2.conv.weight"])


def test_all_layers_are_the_same_model_and_it_remembers_where_from(model_file, tmp_path):
    old = deepseg.new_model(model_file, out=tmp_path / "old.save", seed=1)
    (tmp_path / "model.yaml").write_text(MODEL + "output: out\n")
    new = filled(model_file, old, rules=TransferRules(layers=("all",)), seed=2)
    assert new == tmp_path / "out" / "models" / "small.pretrained.save"
    source, result = deepseg.load(old), deepseg.load(new)
    assert all(torch.equal(result.weights[name], source.weights[name]) for name in source.weights)
    assert result.provenance.words() == {
        "initialised": "seed 2",
        "weights from": str(old),
        "sha256": hashlib.sha256(old.read_bytes()).hexdigest(),
        "rules": {"layers": ["all"]},
        "tensors": f"{len(source.weights)} of {len(source.weights)}",
        "layers": [
            ["normal.1", "normal.1", "3/3", "2/2", ""],
            ["normal.2", "normal.2", "4/4", "3/3", ""],
            ["sub1.1", "sub1.1", "3/3", "2/2", ""],
            ["sub1.2", "sub1.2", "4/4", "3/3", ""],
            ["fc.1", "fc.1", "5/5", "8/8", ""],
            ["fc.2", "fc.2", "3/3", "5/5", ""],
        ],
    }


def test_a_pickle_of_theano_is_never_opened(model_file, tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "PWNED"), "w")

    old = tmp_path / "old.save"
    with gzip.open(old, "wb") as file:
        pickle.dump(Bomb(), file)
    with pytest.raises(DeepsegError) as refusal:
        filled(model_file, old)
    (problem,) = refusal.value.problems
    assert problem.code == "checkpoint-refused"
    assert "Theano" in problem.got
    assert not (tmp_path / "PWNED").exists()
