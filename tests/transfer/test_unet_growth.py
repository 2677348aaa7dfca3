"""A U-Net with another level on top keeps the levels below by name, bit for bit."""

import pytest
import torch

from deepseg.commands.new_model import new_model
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import read_checkpoint
from deepseg.transfer.rules import TransferRules

SMALL = """\
channels: [T1]
classes: [background, lesion]
unet:
  levels:
    - {feature_maps: 4}
    - {feature_maps: 3}
fc: none
segments: {train: 16}
"""
BIG = SMALL.replace("3}\n", "3}\n    - {feature_maps: 2, stride: [2, 2, 1]}\n")
NEW_KERNEL = "unet1.level1.encoder.1.conv.weight"  # it read the image, and reads maps now


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "big.yaml").write_text(BIG)
    new_model("small.yaml", out="small.save", seed=1, quiet=True)
    return tmp_path


def grown(**rules):
    file = new_model("big.yaml", pretrained="small.save", rules=TransferRules(**rules), seed=2)
    return read_checkpoint(file).weights


def test_kept_levels_are_equal_to_the_bit(files, capsys):
    new = grown(layers=("all",))
    old = read_checkpoint(files / "small.save").weights
    kept = {name for name, value in new.items() if name in old and torch.equal(value, old[name])}
    assert old.keys() - kept == {NEW_KERNEL}
    assert {name.split(".")[1] for name in new.keys() - old.keys()} == {"level2"}
    lines = capsys.readouterr().out.splitlines()
    assert "left behind in the source: encoder.1.conv.weight of unet1.level1" in lines


def test_the_old_classifier_becomes_the_head_of_its_level(files):
    new = grown(layers=("all",))
    old = read_checkpoint(files / "small.save").weights
    assert torch.equal(new["unet1.level1.head.weight"], old["unet1.level1.head.weight"])
    assert new["unet1.level2.head.weight"].shape == (2, 2, 1, 1, 1)


def test_single_levels_are_chosen(files):
    new, old = grown(layers=("unet1.level0",)), read_checkpoint(files / "small.save").weights
    kept = {name for name in old if torch.equal(new[name], old[name])}
    spread = {name for name in kept if not name.endswith((".bias", "norm.weight"))}
    assert {name.split(".")[1] for name in spread} == {"level0"}


def test_a_level_on_top_cannot_keep_the_function_and_says_why(files):
    with pytest.raises(DeepsegError) as error:
        grown(depth="identity")
    assert str(error.value) == (
        "[function-not-kept] small.save: got 3 levels, 2 in the older U-Net; expected as many: the "
        "kernel that read the coarse image cannot reach as far in a finer one; fix: leave -width "
        "and -depth out: by name, all levels but that kernel are kept"
    )


@pytest.mark.parametrize(
    "keys", ["norm: instance", "norm: batch, activation: prelu", "norm: none, preset: residual"]
)
def test_a_wider_u_net_computes_the_same(files, keys):
    """Wider levels, channels in another order and one more, a new class between."""
    small = SMALL.replace("unet:\n", "unet:\n  " + keys.replace(", ", "\n  ") + "\n")
    small = small.replace("[T1]", "[T1, T2]")
    wide = small.replace("maps: 4", "maps: 8").replace("maps: 3", "maps: 5")
    wide = wide.replace("[T1, T2]", "[T2, PD, T1]").replace(
        "[background, lesion]", "[background, new, lesion]"
    )
    (files / "narrow.yaml").write_text(small)
    (files / "wide.yaml").write_text(wide)
    old = read_checkpoint(new_model("narrow.yaml", out="narrow.save", seed=3, quiet=True))
    rules = TransferRules(layers=("all",), width="net2net")
    new = read_checkpoint(
        new_model("wide.yaml", pretrained="narrow.save", rules=rules, out="wide.save", quiet=True)
    )
    image = torch.randn(1, 3, 16, 12, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = old.network().eval()([image[:, [2, 0]]])
        now = new.network().eval()([image])
    assert (now[:, [0, 2]] - before).abs().max() < 1e-5 * before.abs().max()
    layer = "encoder.1.conv2" if "residual" in keys else "encoder.2.conv"
    kernel = new.weights[f"unet1.level0.{layer}.weight"]
    assert not torch.equal(kernel[:, :4], kernel[:, 4:])  # copies do not learn alike


def test_what_a_wider_u_net_may_not_change_is_refused(files):
    (files / "other.yaml").write_text(SMALL.replace("maps: 4", "maps: 3, kernel: 5"))
    with pytest.raises(DeepsegError) as error:
        new_model("other.yaml", pretrained="small.save", rules=TransferRules(width="net2net"))
    assert [problem.got for problem in error.value.problems] == [
        "other kernels, strides or blocks in level 0",
        "3 feature maps in level 0",
    ]
