"""Weights of nnU-Net in a U-Net of our own: the scores are nnU-Net's."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from deepseg.commands.new_model import new_model
from deepseg.model.checkpoint import read_checkpoint
from deepseg.model.graph.network import GraphNetwork
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.sources.nnunet.folder import nnunet_folder
from deepseg.transfer.sources.nnunet.network import architecture, nnunet_graph
from tests.model.test_unet import PLANS, RESULTS, fill, own_name

TRAINED = Path(__file__).parent / "files"
ALL = TransferRules(layers=("all",))


def model_file(levels, **keys):
    return json.dumps(
        {
            "channels": ["T1", "T2"],
            "classes": ["background", "a", "b"],
            "unet": {"levels": levels, **keys},
            "fc": "none",
            "segments": {"train": 16},
        }
    )


@pytest.mark.parametrize("preset", ["plain", "residual"])
@pytest.mark.parametrize("prefix", ["", "module._orig_mod."])
def test_a_checkpoint_of_nnunet_fills_a_preset(preset, prefix, tmp_path, monkeypatch, capsys):
    """The oracle are scores that nnU-Net's network computes, whose kernels go along Z, Y, X."""
    monkeypatch.chdir(tmp_path)
    Path("unet.yaml").write_text(model_file(PLANS[preset], preset=preset))
    fresh = read_checkpoint(new_model("unet.yaml", out="fresh.save", quiet=True)).weights
    shapes = {name.partition(".")[2]: value.shape for name, value in fresh.items()}
    state = {}
    for name in RESULTS[f"{preset}.names"].tolist():
        value = fill(name, shapes[own_name(name)])
        state[prefix + name] = value.permute(0, 1, 4, 3, 2) if value.ndim == 5 else value
    torch.save({"network_weights": state, "current_epoch": 5}, "checkpoint_final.pth")
    file = new_model("unet.yaml", pretrained="checkpoint_final.pth", rules=ALL)
    with torch.no_grad():
        scores = read_checkpoint(file).network().eval()([torch.from_numpy(RESULTS["image"])])
    assert np.abs(scores.numpy() - RESULTS[f"{preset}.output0"]).max() <= 1e-5
    lines = capsys.readouterr().out.splitlines()
    assert (
        "weights from checkpoint_final.pth (weights of nnU-Net, kernels turned to X, Y, Z)" in lines
    )


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 2, 0]])
def test_a_folder_of_nnunet_fills_a_u_net_of_its_plans(order, tmp_path, monkeypatch):
    """As its own network computes, whatever its axes are."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(TRAINED, "trained")
    plans = json.loads(Path("trained/plans.json").read_text())
    Path("trained/plans.json").write_text(json.dumps(plans | {"transpose_forward": order}))
    folder = nnunet_folder(Path("trained"))
    plan = architecture(folder)
    levels = [
        {"feature_maps": maps, "kernel": kernel, "encoder": layers}
        | ({} if number == len(plan.maps) - 1 else {"stride": below, "decoder": up})
        for number, (maps, kernel, layers, below, up) in enumerate(
            zip(
                *(plan.maps, plan.kernels, plan.layers, (*plan.strides[1:], None)),
                (*plan.decoder[::-1], None),
                strict=True,
            )
        )
    ]
    Path("unet.yaml").write_text(model_file(levels[::-1]))
    file = new_model("unet.yaml", pretrained="trained", rules=ALL, quiet=True)
    model = read_checkpoint(file)
    image = torch.randn(1, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = model.network().eval()([image])
        (expected,) = GraphNetwork(nnunet_graph(folder), drops_softmax=False).eval()(image)
    assert (scores - expected).abs().max() <= 1e-5 * expected.abs().max()
