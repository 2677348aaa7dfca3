"""Modules are found by name: in known packages, or where a program has registered them."""

import sys

import pytest
import torch
from torch import nn

from deepseg import register_module
from deepseg.errors import DeepsegError
from deepseg.transfer.sources.modules import module_registry
from deepseg.transfer.sources.modules.module_registry import built_module, load_weights

PACKAGE = """
import torch
from torch import nn

class UNet(nn.Module):
    def __init__(self, spatial_dims, maps=4, conv=nn.Conv2d, act=("RELU",)):
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"spatial_dims {spatial_dims}")
        self.conv = conv(1, maps, 3, padding=1)

    def forward(self, x):
        return self.conv(x)

def helper():
    return None
"""


@pytest.fixture(autouse=True)
def _own_names(monkeypatch):
    monkeypatch.setattr(module_registry, "_registered", {})
    with torch.random.fork_rng():
        yield


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of the list, of our own making."""
    folder = tmp_path / "monai/networks/nets"
    folder.mkdir(parents=True)
    for path in (folder, folder.parent, folder.parents[1]):
        (path / "__init__.py").write_text("")
    (folder / "__init__.py").write_text(PACKAGE)
    (folder / "secret.py").write_text("raise SystemExit('never imported')")
    for name in [n for n in sys.modules if n.split(".")[0] == "monai"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in [n for n in sys.modules if n.split(".")[0] == "monai"]:
        del sys.modules[name]


def refusal(name, **arguments):
    with pytest.raises(DeepsegError) as caught:
        built_module(name, arguments)
    return [(p.code, p.got, p.fix) for p in caught.value.problems]


@pytest.mark.usefixtures("package")
def test_a_class_of_a_known_package_is_built_with_classes_of_torch_by_name():
    before = torch.get_rng_state()
    built = built_module(
        "monai.networks.nets.UNet", {"spatial_dims": 3, "conv": "torch.nn.modules.conv.Conv3d"}
    )
    assert isinstance(built.module.conv, nn.Conv3d)
    assert not built.has_weights
    assert torch.equal(torch.get_rng_state(), before)
    again = built_module("monai.networks.nets.UNet", {"spatial_dims": 3})
    assert again.module.conv.weight.shape == (4, 1, 3, 3)


@pytest.mark.usefixtures("package")
def test_wrong_names_and_arguments_come_with_the_nearest():
    assert refusal("monai.networks.nets.Unet", spatial_dims=3) == [
        ("module-unknown", "module 'monai.networks.nets.Unet'",
         "correct the name; did you mean 'monai.networks.nets.UNet'?")
    ]  # fmt: skip
    assert refusal("monai.networks.nets.helper")[0][0] == "module-unknown"
    assert refusal("monai.networks.nets.UNet", spatial_dim=3) == [
        ("module-arguments", "argument 'spatial_dim' of monai.networks.nets.UNet; did you mean "
         "'spatial_dims'?", "correct arguments of this pathway"),
        ("module-arguments", "no argument spatial_dims of monai.networks.nets.UNet",
         "correct arguments of this pathway"),
    ]  # fmt: skip
    assert refusal("monai.networks.nets.UNet", spatial_dims=2)[0][1] == (
        "arguments that monai.networks.nets.UNet refuses: spatial_dims 2"
    )


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    "name",
    ["os.system", "monai.networks.UNet", "monai.networks.nets.nn.Module", "torch.nn.Conv3d", "UNet",
     "monai.networks.nets.torch.hub.load", "monai.networks.netsx.UNet"],
)  # fmt: skip
def test_nothing_outside_the_packages_is_reached(name):
    before = set(sys.modules)
    assert refusal(name)[0][0] == "module-unknown"
    assert {m for m in set(sys.modules) - before if not m.startswith("monai.networks")} <= {"monai"}


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dynamic_network_architectures", None)
    name = "dynamic_network_architectures.architectures.unet.PlainConvUNet"
    assert [row[0] for row in refusal(name)] == ["module-package-missing"]
    assert refusal(name)[0][2] == "pip install 'deepseg-pathways[nnunet]'"


def test_a_registered_module_keeps_its_weights_and_a_class_makes_one():
    module = nn.Conv3d(1, 2, 3)
    register_module("mine", module)
    register_module("Conv", nn.Conv3d)
    assert built_module("mine", {}) == module_registry.BuiltModule(module, has_weights=True)
    new = built_module("Conv", {"in_channels": 1, "out_channels": 5, "kernel_size": 3}).module
    assert new.weight.shape == (5, 1, 3, 3, 3)
    assert refusal("mine", kernel_size=3) == [
        ("module-arguments", "arguments kernel_size for 'mine', a module that is there already",
         "correct arguments of this pathway")
    ]  # fmt: skip
    assert refusal("mime")[0][2] == "correct the name; did you mean 'mine'?"


@pytest.mark.parametrize(("name", "module"), [("monai.UNet", nn.Conv3d), ("net", 3)])
def test_names_and_things_that_cannot_be_registered(name, module):
    with pytest.raises(DeepsegError, match="module-name"):
        register_module(name, module)


def test_weights_are_found_behind_the_words_of_wrappers():
    module, trained = nn.BatchNorm3d(2), nn.BatchNorm3d(2)
    nn.init.constant_(trained.weight, 7)
    stored = {f"model.net.{key}": value for key, value in trained.state_dict().items()}
    stored["loss.weight"] = torch.ones(5)
    load_weights(module, stored)
    assert module.weight.tolist() == [7, 7]


@pytest.mark.parametrize(
    ("change", "got"),
    [
        pytest.param(
            lambda s: s.update({"0.weight": torch.zeros(4, 1, 1, 1, 1)}),
            "3 of 4 tensors of the module in the file (0.weight of shape 4 x 1 x 1 x 1 x 1, here "
            "4 x 2 x 1 x 1 x 1)", id="of another shape",
        ),
        pytest.param(
            lambda s: s.update({"1.wieght": s.pop("1.weight")}),
            "3 of 4 tensors of the module in the file (no 1.weight; did you mean '1.wieght'?)",
            id="missing",
        ),
    ],
)  # fmt: skip
def test_weights_that_do_not_fit(change, got):
    module = nn.Sequential(nn.Conv3d(2, 4, 1), nn.Conv3d(4, 1, 1))
    stored = dict(module.state_dict())
    change(stored)
    with pytest.raises(DeepsegError) as caught:
        load_weights(module, stored)
    (problem,) = caught.value.problems
    assert (problem.code, problem.got) == ("module-weights", got)
