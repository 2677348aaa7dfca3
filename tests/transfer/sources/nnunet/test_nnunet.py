"""Folders of nnU-Net become models that predict what nnU-Net predicts.

The folder in ``files`` was written by nnU-Net 2.8.1 after a few minutes of training on spheres, and
so were the labels of two cases that it had not seen. The first is resampled along all axes and
smaller than a window along one; the voxels of the second are long along Z.
"""

import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from deepseg import Predictor, new_model
from deepseg.config.cases import Preparation
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import read_checkpoint
from deepseg.model.graph.network import GraphNetwork
from deepseg.sessions.cohort import session_preparation
from deepseg.transfer.sources.nnunet.folder import NnunetFolder, nnunet_folder
from deepseg.transfer.sources.nnunet.network import nnunet_graph

FILES = Path(__file__).parent / "files"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return new_model(FILES, out=tmp_path_factory.mktemp("nnunet") / "N.save", quiet=True)


@pytest.fixture
def folder(tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(FILES, tmp_path / "copy", ignore=shutil.ignore_patterns("images", "labels"))
    return tmp_path / "copy"


def edit(file, change):
    content = json.loads(file.read_text("utf-8"))
    change(content)
    file.write_text(json.dumps(content), "utf-8")


def refusal(path, *, fold=None):
    """The problem that a folder has."""
    with pytest.raises(DeepsegError) as caught:
        nnunet_graph(nnunet_folder(path, fold))
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize("case", ["a", "b"])
def test_labels_are_those_of_nnunet(model, case):
    images = [FILES / "images" / f"{case}_000{number}.nii.gz" for number in (0, 1)]
    expected = np.asarray(nibabel.load(FILES / "labels" / f"{case}.nii.gz").dataobj)
    assert np.unique(expected).tolist() == [0, 1, 2]
    labels = Predictor(model, device="cpu").segment(images).labels
    assert (labels != expected).mean() <= 0.001
    foreground = expected > 0
    assert (labels != expected)[foreground].mean() <= 0.03


def test_the_save_holds_the_settings_of_the_plans(model):
    checkpoint = read_checkpoint(model)
    config = checkpoint.config
    assert (config.name, config.channels) == ("Dataset291_Spheres", ("CT", "T2"))
    assert config.classes == ("background", "core", "rim")
    assert config.segment_sizes["inference"] == (28, 32, 12)
    assert config.windows.model_dump() == {
        "overlap": 0.5, "places": "even", "beyond": "zero", "average": "scores",
        "mirror": ("x", "y", "z"),
    }  # fmt: skip
    assert checkpoint.preparation.spacing_mm == (1.0, 1.0, 2.5)
    ct, t2 = checkpoint.preparation.nnunet.channels
    assert (ct.channel, ct.scheme) == ("CT", "ct")
    entry = json.loads((FILES / "plans.json").read_text("utf-8"))
    entry = entry["foreground_intensity_properties_per_channel"]["0"]
    assert ct.limits == (entry["percentile_00_5"], entry["percentile_99_5"])
    assert (ct.mean, ct.deviation) == (entry["mean"], entry["std"])
    assert (t2.scheme, t2.inside) == ("z_score", True)
    assert not checkpoint.is_random


def test_cases_to_fine_tune_on_are_prepared_in_the_same_way(model):
    checkpoint = read_checkpoint(model)
    assert session_preparation(Preparation(), checkpoint, []) == checkpoint.preparation
    chosen = Preparation(resample=2)
    assert session_preparation(chosen, checkpoint, []).nnunet is None


def test_axes_may_be_exchanged_in_the_plans(folder):
    """A network that reads (X, Z, Y) is the one with its kernels turned."""
    plain = nnunet_folder(folder)
    order = (1, 2, 0)  # of nnU-Net's axes (Z, Y, X)
    edit(folder / "plans.json", lambda plans: plans.update(transpose_forward=list(order)))
    turned = nnunet_folder(folder)
    assert (plain.axes, turned.axes) == ((2, 1, 0), (1, 0, 2))
    assert turned.along_axes(["y", "x", "z"]) == ("x", "y", "z")
    image = torch.randn(1, 2, 16, 12, 20, generator=torch.Generator().manual_seed(1))
    networks = [GraphNetwork(nnunet_graph(m)).eval() for m in (plain, turned)]
    with torch.no_grad():
        (straight,) = networks[0](image)
        # Its X, Y, Z are what the first one calls Y, Z, X.
        (second,) = networks[1](image.permute(0, 1, 3, 4, 2))
    assert torch.allclose(straight.permute(0, 1, 3, 4, 2), second, atol=1e-4)


def test_residual_encoders_are_built_with_their_bypasses(folder):
    """Against an encoder of two stages that is computed by hand from the same tensors."""
    rng = torch.Generator().manual_seed(0)

    def layer(name, maps, inputs, size, *, bias=True):
        weights[f"{name}.conv.weight"] = torch.randn(maps, inputs, *size, generator=rng)
        if bias:
            weights[f"{name}.conv.bias"] = torch.randn(maps, generator=rng)
        weights[f"{name}.norm.weight"] = torch.rand(maps, generator=rng) + 0.5
        weights[f"{name}.norm.bias"] = torch.randn(maps, generator=rng)

    weights: dict[str, torch.Tensor] = {}
    layer("encoder.stem.convs.0", 4, 2, (3, 3, 3))
    layer("encoder.stages.0.blocks.0.conv1", 4, 4, (3, 3, 3))
    layer("encoder.stages.0.blocks.0.conv2", 4, 4, (3, 3, 3))
    layer("encoder.stages.1.blocks.0.conv1", 6, 4, (3, 3, 3))
    layer("encoder.stages.1.blocks.0.conv2", 6, 6, (3, 3, 3))
    layer("encoder.stages.1.blocks.0.skip.1", 6, 4, (1, 1, 1), bias=False)
    weights["decoder.transpconvs.0.weight"] = torch.randn(6, 4, 2, 2, 2, generator=rng)
    layer("decoder.stages.0.convs.0", 4, 8, (3, 3, 3))
    weights["decoder.seg_layers.0.weight"] = torch.randn(3, 4, 1, 1, 1, generator=rng)
    torch.save({"network_weights": weights}, folder / "fold_0/checkpoint_final.pth")

    def change(plans):
        entry = plans["configurations"]["3d_fullres"]["architecture"]
        entry["network_class_name"] = "somewhere.ResidualEncoderUNet"
        entry["arch_kwargs"] |= {
            "n_stages": 2, "features_per_stage": [4, 6], "kernel_sizes": [3, 3],
            "strides": [1, [2, 2, 2]], "n_blocks_per_stage": [1, 1], "n_conv_per_stage_decoder": 1,
        }  # fmt: skip

    edit(folder / "plans.json", change)
    shutil.move(folder, folder.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    model = nnunet_folder(folder.parent / "nnUNetTrainer__nnUNetPlans__3d_fullres")
    image = torch.randn(1, 2, 8, 6, 4, generator=rng)
    with torch.no_grad():
        (scores,) = GraphNetwork(nnunet_graph(model)).eval()(image)
        right = by_hand(weights, image.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)
    assert torch.allclose(scores, right, atol=1e-4)


def by_hand(weights, x):
    def layer(name, x, stride=1, *, is_activated=True):
        kernel = weights[f"{name}.conv.weight"]
        y = F.conv3d(x, kernel, weights.get(f"{name}.conv.bias"), stride, kernel.shape[-1] // 2)
        y = F.instance_norm(
            y, weight=weights[f"{name}.norm.weight"], bias=weights[f"{name}.norm.bias"]
        )
        return F.leaky_relu(y, 0.01) if is_activated else y

    def block(name, x, skip, stride=1):
        y = layer(f"{name}.conv2", layer(f"{name}.conv1", x, stride), is_activated=False)
        return F.leaky_relu(y + skip, 0.01)

    x = layer("encoder.stem.convs.0", x)
    first = block("encoder.stages.0.blocks.0", x, x)
    name = "encoder.stages.1.blocks.0"
    bypass = layer(f"{name}.skip.1", F.avg_pool3d(first, 2), is_activated=False)
    second = block(name, first, bypass, 2)
    up = F.conv_transpose3d(second, weights["decoder.transpconvs.0.weight"], stride=2)
    y = layer("decoder.stages.0.convs.0", torch.cat([up, first], 1))
    return F.conv3d(y, weights["decoder.seg_layers.0.weight"])


def test_a_pathway_is_cut_at_a_stage_of_the_decoder():
    graph = nnunet_graph(nnunet_folder(FILES / "fold_0"))
    points = ["decoder.stages.0", "decoder.transpconvs.1"]
    network = GraphNetwork(graph, outputs=points).eval()
    maps, larger = network(torch.rand(1, 2, 8, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert maps.shape == (1, 8, 4, 4, 8)
    # The next stage begins with what nnU-Net's own layer makes of these maps.
    weight, bias = (graph.weights[f"decoder.transpconvs.1.{name}"] for name in ("weight", "bias"))
    expected = F.conv_transpose3d(maps, weight, bias, stride=tuple(weight.shape[2:]))
    torch.testing.assert_close(larger, expected)
    assert maps.std() > 0.01


def configuration(**values):
    return lambda plans: plans["configurations"]["3d_fullres"].update(values)


def arguments(**values):
    def change(plans):
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "code", "got"),
    [
        (configuration(spacing=[1, 1]), "nnunet-refused",
         "configuration 3d_fullres, of images of two axes"),
        (configuration(previous_stage="3d_lowres"), "nnunet-refused",
         "configuration 3d_fullres, which reads the result of 3d_lowres"),
        (configuration(preprocessor_name="Own"), "nnunet-refused", "preprocessor Own"),
        (arguments(norm_op="torch.nn.GroupNorm"), "nnunet-refused",
         "normalisation torch.nn.GroupNorm"),
        (arguments(dropout_op="torch.nn.Dropout3d"), "nnunet-refused",
         "dropout torch.nn.Dropout3d"),
        (arguments(n_conv_per_stage=[2, 2, 1]), "nnunet-refused",
         "a tensor encoder.stages.2.0.convs.1.conv.weight in checkpoint_final.pth"),
        (arguments(n_conv_per_stage=[2, 2, 3]), "nnunet-refused",
         "no tensor encoder.stages.2.0.convs.2.conv.weight in checkpoint_final.pth"),
        (arguments(n_conv_per_stage=[2, 2]), "nnunet-damaged", "an architecture without 3 stages"),
        (lambda plans: plans.update(transpose_forward=[0, 0, 1]), "nnunet-damaged",
         "transpose_forward [0, 0, 1]"),
        (lambda plans: plans.update(configurations={}), "nnunet-damaged",
         "no configuration '3d_fullres'"),
    ],
)  # fmt: skip
def test_plans_that_are_not_covered_are_refused_by_name(folder, change, code, got):
    edit(folder / "plans.json", change)
    problem = refusal(folder)
    assert (problem.code, problem.got) == (code, got)


def test_regions_are_refused_by_name_and_an_ignored_label_is_no_class(folder):
    edit(folder / "dataset.json", lambda d: d["labels"].update(ignore=3))
    assert nnunet_folder(folder).classes == ("background", "core", "rim")
    edit(folder / "dataset.json", lambda d: d["labels"].update(whole=[1, 2]))
    with pytest.raises(DeepsegError, match="regions that consist of several labels: whole"):
        _ = nnunet_folder(folder).classes


def test_folders_that_lack_something(folder, tmp_path):
    assert refusal(tmp_path).got == "no plans.json"
    assert refusal(folder, fold=3).got == "no fold_3"
    (folder / "dataset.json").unlink()
    assert refusal(folder).got == "no dataset.json"
    (folder / "fold_0/checkpoint_final.pth").unlink()
    assert refusal(folder).got == "no checkpoint_final.pth"
    (folder / "plans.json").write_text("{", "utf-8")
    shutil.copy(FILES / "dataset.json", folder)
    shutil.copy(FILES / "fold_0/checkpoint_final.pth", folder / "fold_0")
    assert refusal(folder).code == "nnunet-damaged"


def test_the_first_fold_is_taken_where_none_is_named(folder):
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    assert nnunet_folder(folder).checkpoint.parent.name == "fold_0"
    assert nnunet_folder(folder, 1).checkpoint.parent.name == "fold_1"
    assert nnunet_folder(folder / "fold_1").checkpoint.parent.name == "fold_1"
    assert isinstance(nnunet_folder(folder), NnunetFolder)
