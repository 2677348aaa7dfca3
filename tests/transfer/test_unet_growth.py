"""A U-Net grows: by levels on top, which keep the function or the levels below, and wider."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from deepseg.commands.new_model import new_model
from deepseg.config.blocks.unet import UnetPathway
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import read_checkpoint
from deepseg.model.graph.initialisation import initialised
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.unet_level import Level, UnetSize

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
    remaining = {
        name for name, value in new.items() if name in old and torch.equal(value, old[name])
    }
    assert old.keys() - remaining == {NEW_KERNEL}
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
    remaining = {name for name in old if torch.equal(new[name], old[name])}
    spread = {name for name in remaining if not name.endswith((".bias", "norm.weight"))}
    assert {name.split(".")[1] for name in spread} == {"level0"}


UP = "    - {feature_maps: 16, stride: [2, 2, 1]}\n"


def scores(model, image):
    with torch.no_grad():
        return model.network().eval()([image])


def with_levels(files, keys, *, levels=UP, channels="[T1]", classes="[background, lesion]"):
    """A U-Net that has learnt something, and it with levels on top."""
    small = SMALL.replace("unet:\n", "".join(f"{line}\n  " for line in ("unet:", *keys))[:-2])
    (files / "low.yaml").write_text(small)
    tall = small.replace("3}\n", "3}\n" + levels).replace("[T1]", channels)
    (files / "tall.yaml").write_text(tall.replace("[background, lesion]", classes))
    old = read_checkpoint(new_model("low.yaml", out="low.save", seed=3, quiet=True))
    rng = torch.Generator().manual_seed(5)
    learnt = {
        name: value + 0.1 * torch.rand(value.shape, generator=rng)
        for name, value in old.weights.items()
    }
    old = replace(old, weights=learnt)
    old.write(files / "learnt.save")
    rules = TransferRules(layers=("all",), depth="identity")
    return old, read_checkpoint(new_model("tall.yaml", pretrained="learnt.save", rules=rules))


@pytest.mark.parametrize(
    "keys",
    [
        ("norm: none", "activation: relu"),
        ("norm: batch", "activation: leaky_relu"),
        ("norm: none", "activation: gelu"),
        ("norm: batch", "activation: prelu"),
    ],
)
def test_a_level_on_top_computes_the_same_of_voxels_that_are_means(files, keys, capsys):
    """Fine voxels of half the size along X and Y; a new channel, and a new class between."""
    old, new = with_levels(files, keys, channels="[PD, T1]", classes="[background, new, lesion]")
    image = torch.randn(1, 2, 16, 12, 8, generator=torch.Generator().manual_seed(0))
    coarse = image[:, 1:].view(1, 1, 8, 2, 6, 2, 8).mean((3, 5))
    before = scores(old, coarse).repeat_interleave(2, 2).repeat_interleave(2, 3)
    now = scores(new, image)[:, [0, 2]]
    assert (now - before).abs().max() < 1e-5 * before.abs().max()
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith("level2 is new on top")]
    assert line.startswith(
        "level2 is new on top: a random image keeps the labels of 100.0% of its voxels, and scores "
        "change by "
    )


def test_kept_levels_are_copied_where_the_function_is_kept(files):
    old, new = with_levels(files, ("norm: none",))
    changed = {n for n, v in old.weights.items() if not torch.equal(v, new.weights[n])}
    assert changed == {NEW_KERNEL}


def test_two_levels_at_once_compute_the_same(files):
    old, new = with_levels(files, ("norm: none",), levels=UP + UP)
    image = torch.randn(1, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0))
    before = scores(old, F.avg_pool3d(image, (4, 4, 1)))
    before = before.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert (scores(new, image) - before).abs().max() < 1e-5 * before.abs().max()


def agreement(**keys):
    """Share of labels and change of scores where a U-Net of random weights gets a level."""
    levels = ({"feature_maps": 3}, {"feature_maps": 3}, {"feature_maps": 16, **keys.pop("top", {})})
    unet = UnetSize(UnetPathway(levels=levels, **keys), channels=1, classes=2)
    rng = torch.Generator().manual_seed(2)
    older = initialised(unet.without_top().graph(), rng=rng).weights
    level = Level(unet, older, initialised(unet.graph(), rng=rng).weights)
    return *level.agreement(), level.notes


@pytest.mark.parametrize(
    "keys",
    [
        {"norm": "none", "padding": "valid"},
        {"norm": "batch", "padding": "valid", "top": {"stride": (2, 1, 2), "decoder": 1}},
        {"norm": "none", "top": {"encoder": 3, "kernel": 5}},
    ],
)
def test_borders_and_further_convolutions_change_nothing(keys):
    share, change, notes = agreement(**keys)
    assert (share, notes) == (1, [])
    assert change < 1e-5


def test_the_norm_of_single_images_takes_scale_and_mean_of_scores():
    share, change, notes = agreement(norm="instance")
    assert share > 0.95
    assert 0.001 < change < 0.1
    assert notes == []


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        (
            {"top": {"feature_maps": 8}},
            "level1 reads some coarse voxels beside their places: 8 feature maps in level2, 16 "
            "would carry all",
        ),
        (
            {"top": {"encoder": 1}},
            "level1 reads some coarse voxels beside their places: the kernels of level2 do not "
            "reach them",
        ),
        (
            {"preset": "residual"},
            "level1.stem of the source read the image, and there is no place for it below another "
            "level: what level1 reads is new",
        ),
        (
            {"top": {"feature_maps": 1}},
            "1 feature maps in level2, 2 are needed to carry the image: what level1 reads is new",
        ),
    ],
)
def test_what_cannot_be_kept_is_told(keys, note):
    share, change, notes = agreement(norm="none", **keys)
    assert notes[0] == note
    assert change > 0.01
    assert share < 1


def test_scores_that_find_no_room_are_told():
    """Of two classes their difference is carried, by two maps; there is one."""
    assert agreement(norm="none", top={"feature_maps": 1})[2][1] == (
        "1 feature maps in level2, 2 are needed to carry the scores: its classifier is new"
    )


def test_levels_are_not_taken_off(files):
    new_model("big.yaml", out="big.save", seed=1, quiet=True)
    with pytest.raises(DeepsegError) as error:
        new_model("small.yaml", pretrained="big.save", rules=TransferRules(depth="identity"))
    assert str(error.value) == (
        "[function-not-kept] big.save: got 2 levels; expected the 3 of the older U-Net; fix: leave "
        "-width and -depth out, or change the model file"
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
