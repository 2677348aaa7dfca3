"""Weights of a small model in a larger one, tensor by tensor against tables made by hand.

A has 4 + 3 layers in two pathways; B has 8 + 3, is twice as wide, has three pathways, its channels
in another order with a new one between, and one class more.
"""

import json
from functools import cache

import pytest
import torch
import yaml

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import TrainingCohort
from deepseg.model.network import Network
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import applied
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source

A = """\
channels: [FLAIR, T1c]
classes: [background, lesion]
normal: {feature_maps: [3, 4, 5, 6], kernels: [3, 3, [3, 1, 3], 3]}
subsampled: {factors: [3], feature_maps: [2, 3, 4, 5], kernels: [3, 3, [3, 1, 3], 3]}
fc: {feature_maps: [7, 8]}
segments: {train: 17}
"""
B = """\
channels: [T1c, DWI, FLAIR]
classes: [background, core, lesion]
normal:
  feature_maps: [6, 8, 10, 12, 12, 12, 12, 12]
  kernels: [3, 3, [3, 1, 3], 3, 1, 1, 3, 1]
subsampled:
  factors: [3, 5]
  feature_maps: [4, 6, 8, 10, 10, 10, 10, 10]
  kernels: [3, 3, [3, 1, 3], 3, 1, 1, 3, 1]
fc: {feature_maps: [14, 16]}
segments: {train: 25}
"""
B_OF_FOUR = """\
channels: [T1c, DWI, FLAIR]
classes: [background, core, lesion]
normal: {feature_maps: [6, 8, 10, 12], kernels: [3, 3, [3, 1, 3], 3]}
subsampled:
  factors: [3, 5]
  feature_maps: [4, 6, 8, 10]
  kernels: [3, 3, [3, 1, 3], 3]
fc: {feature_maps: [14, 16]}
segments: {train: 25}
"""
BY_INPUT = (
    "norm.weight",
    "norm.bias",
    "norm.running_mean",
    "norm.running_var",
    "activation.weight",
)


def config(text: str, **changes) -> ModelConfig:
    return ModelConfig.model_validate(yaml.safe_load(text) | changes)


def weights(settings: ModelConfig, seed: int) -> dict[str, torch.Tensor]:
    """Random everywhere, statistics and slopes included; variances positive."""
    rng = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in Network(settings, rng=rng).state_dict().items():
        result[name] = torch.randn(tensor.shape, generator=rng).to(tensor.dtype)
        if name.endswith("_var"):
            result[name] = result[name].abs() + 0.5
    return result


@cache
def older() -> Source:
    settings = config(A)
    return Source("A.save", "deepseg model", weights(settings, 1), "0" * 64, settings)


def fresh(text: str) -> dict[str, torch.Tensor]:
    return weights(config(text), 2)


def filled(text: str, **rules) -> dict[str, torch.Tensor]:
    start = fresh(text)
    return applied(make_plan(older(), config(text), start, TransferRules(**rules)), start)


def by_hand(text: str, layers: dict[str, str], *, head: bool = False) -> dict[str, torch.Tensor]:
    """The new model with what ``layers`` (of the new one: of A) take over, by plain indexing."""
    old, new = older().tensors, fresh(text)
    for target, source in layers.items():
        kernel, expected = old[f"{source}.conv.weight"], new[f"{target}.conv.weight"]
        outputs = kernel.shape[0]
        if target.endswith(".1") and target != "fc.1":  # T1c, DWI, FLAIR from FLAIR, T1c
            expected[:outputs, 0] = kernel[:, 1]
            expected[:outputs, 1] = 0
            expected[:outputs, 2] = kernel[:, 0]
            new[f"{target}.input_bias"][0] = old[f"{source}.input_bias"][1]
            new[f"{target}.input_bias"][2] = old[f"{source}.input_bias"][0]
            continue
        # fc.1 of A reads 6 normal and 5 sub1 maps; that of B 12 normal, 10 sub1 and 10 sub2 maps
        pairs = [(0, 0, kernel.shape[1])] if target != "fc.1" else [(0, 0, 6), (12, 6, 5)]
        for place, begin, count in pairs:
            expected[:outputs, place : place + count] = kernel[:, begin : begin + count]
            for part in BY_INPUT:
                new[f"{target}.{part}"][place : place + count] = old[f"{source}.{part}"][
                    begin : begin + count
                ]
    if head:  # background, core, lesion from background, lesion
        for label, old_label in ((0, 0), (2, 1)):
            new["fc.3.conv.weight"][label, :8] = old["fc.3.conv.weight"][old_label]
            new["fc.3.bias"][label] = old["fc.3.bias"][old_label]
        for part in BY_INPUT:
            new[f"fc.3.{part}"][:8] = old[f"fc.3.{part}"]
    return new


def pathways(*numbers: int) -> dict[str, str]:
    """These layers of every pathway; sub2, which A does not have, from A's last one."""
    origins = {"normal": "normal", "sub1": "sub1", "sub2": "sub1"}
    return {f"{new}.{n}": f"{old}.{n}" for new, old in origins.items() for n in numbers}


FC = {"fc.1": "fc.1", "fc.2": "fc.2"}


@pytest.mark.parametrize(
    ("text", "words", "layers", "head"),
    [
        pytest.param(
            B, ("1", "2", "5"), pathways(1, 2) | {"fc.1": "fc.1"}, False,
            id="depth 5 of A is its first FC layer",
        ),
        pytest.param(
            B, ("normal.1-3", "sub1.2", "fc.1"),
            {
                **{f"normal.{n}": f"normal.{n}" for n in (1, 2, 3)},
                "sub1.2": "sub1.2", "sub2.2": "sub1.2", "fc.1": "fc.1",
            },
            False, id="names and ranges",
        ),
        pytest.param(B, ("2-3", "head"), pathways(2, 3), True, id="depths and the head"),
        pytest.param(B_OF_FOUR, None, pathways(1, 2, 3, 4) | FC, False, id="all but the head"),
        pytest.param(B_OF_FOUR, ("all",), pathways(1, 2, 3, 4) | FC, True, id="all"),
    ],
)  # fmt: skip
def test_chosen_layers_are_taken_over_and_nothing_else_is_touched(text, words, layers, head):
    result, expected = filled(text, layers=words), by_hand(text, layers, head=head)
    assert result.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(result[name], tensor), name


@pytest.mark.parametrize("words", [None, ("all",)])
def test_too_few_layers_are_an_error_that_lists_the_missing_ones(words):
    with pytest.raises(DeepsegError) as refusal:
        filled(B, layers=words)
    assert str(refusal.value) == (
        "[source-too-short] got an older model without layers for normal.5-8, sub1.5-8, sub2.5-8; "
        "expected at least as many layers as in the new model, in every pathway; fix: name the "
        "layers to take over with -layers, or add -depth first-common, or -depth identity"
    )


def test_a_deeper_older_model_gives_the_layers_that_the_new_one_has():
    deep = config(B)
    source = Source("B.save", "deepseg model", weights(deep, 3), "0" * 64, deep)
    start = fresh(B_OF_FOUR)
    plan = make_plan(source, config(B_OF_FOUR), start, TransferRules())
    result = applied(plan, start)
    for name, tensor in result.items():
        origin = start if name.startswith("fc.3") else source.tensors
        assert torch.equal(tensor, origin[name]), name
    assert {name.rpartition(".conv")[0] for name in plan.source_only if ".conv." in name} == {
        *(f"{pathway}.{n}" for pathway in ("normal", "sub1", "sub2") for n in (5, 6, 7, 8)),
        "fc.3",
    }


def test_the_first_fc_layer_is_cut_by_pathways_not_by_position():
    kernel = filled(B, layers=("fc.1",))["fc.1.conv.weight"]
    old = older().tensors["fc.1.conv.weight"]
    assert torch.equal(kernel[:7, :6], old[:, :6])  # normal
    assert torch.equal(kernel[:7, 12:17], old[:, 6:])  # sub1
    start = fresh(B)["fc.1.conv.weight"]
    assert torch.equal(kernel[:7, 6:12], start[:7, 6:12])
    assert torch.equal(kernel[:7, 17:], start[:7, 17:])  # the rest of sub1, and sub2


def test_a_pathway_can_be_fed_from_any_other_and_its_fc_block_follows():
    result = filled(B, layers=("1", "5"), pathways={"sub2": "sub1", "sub1": "normal"})
    old, start = older().tensors, fresh(B)
    assert torch.equal(result["sub2.1.conv.weight"][:2, 2], old["sub1.1.conv.weight"][:, 0])
    assert torch.equal(result["sub1.1.conv.weight"][:3, 2], old["normal.1.conv.weight"][:, 0])
    assert torch.equal(result["normal.1.conv.weight"][:3, 2], old["normal.1.conv.weight"][:, 0])
    kernel, old_kernel = result["fc.1.conv.weight"], old["fc.1.conv.weight"]
    assert torch.equal(kernel[:7, :12], start["fc.1.conv.weight"][:7, :12])  # normal: given away
    assert torch.equal(kernel[:7, 12:18], old_kernel[:, :6])  # sub1 has the block of normal
    assert torch.equal(kernel[:7, 22:27], old_kernel[:, 6:])  # sub2 has that of sub1


@pytest.mark.parametrize("wish", ["zero", "random", "mean", "copy:T1c", "FLAIR"])
def test_a_channel_that_the_source_does_not_know_begins_as_asked(wish):
    kernel = filled(B, layers=("1",), channels={"DWI": wish})["normal.1.conv.weight"]
    flair, t1c = older().tensors["normal.1.conv.weight"].unbind(1)
    expected = {
        "zero": torch.zeros_like(flair),
        "random": fresh(B)["normal.1.conv.weight"][:3, 1],
        "mean": (flair + t1c) / 2,
        "copy:T1c": t1c,
        "FLAIR": flair,
    }
    assert torch.allclose(kernel[:3, 1], expected[wish])


def test_classes_are_matched_by_name_and_renamed_ones_on_request():
    result = filled(B, layers=("head",), classes={"core": "lesion"})
    old = older().tensors
    for label, old_label in ((0, 0), (1, 1), (2, 1)):
        assert torch.equal(result["fc.3.bias"][label], old["fc.3.bias"][old_label])
        assert torch.equal(
            result["fc.3.conv.weight"][label, :8], old["fc.3.conv.weight"][old_label]
        )


def test_classes_on_request_take_the_head_along():
    result = filled(B_OF_FOUR, classes={"core": "lesion"})
    assert torch.equal(result["fc.3.bias"][1], older().tensors["fc.3.bias"][1])


def test_smaller_kernels_go_into_the_middle_of_larger_ones():
    larger = B_OF_FOUR.replace("kernels: [3, 3, [3, 1, 3], 3]}", "kernels: [[5, 3, 7], 3, 3, 3]}")
    with pytest.raises(DeepsegError) as refusal:
        filled(larger)
    fix = "add -kernels centre to put it into the middle, or leave {} out with -layers"
    assert str(refusal.value).splitlines() == [
        "[kernel-shape] got a kernel of 3 x 3 x 3 in normal.1 of the older model; expected "
        f"5 x 3 x 7, as in normal.1 of the new one; fix: {fix.format('normal.1')}",
        "[kernel-shape] got a kernel of 3 x 1 x 3 in normal.3 of the older model; expected "
        f"3 x 3 x 3, as in normal.3 of the new one; fix: {fix.format('normal.3')}",
    ]
    kernel = filled(larger, kernels="centre")["normal.1.conv.weight"]
    flair = older().tensors["normal.1.conv.weight"][:, 0]
    expected = torch.zeros(3, 5, 3, 7)
    expected[:, 1:4, :, 2:5] = flair
    assert torch.equal(kernel[:3, 2], expected)


def test_an_odd_kernel_has_no_middle_in_an_even_one():
    with pytest.raises(DeepsegError) as refusal:
        filled(
            B_OF_FOUR.replace("[3, 3, [3, 1, 3], 3]}", "[[3, 4, 5], 3, [3, 1, 3], 3]}"),
            kernels="centre",
        )
    assert str(refusal.value) == (
        "[kernel-shape] got a kernel of 3 x 3 x 3 in normal.1 of the older model; expected "
        "3 x 4 x 5 as in normal.1, or smaller by an even number of voxels, so that it has a middle "
        "there; fix: choose another kernel for normal.1, or leave normal.1 out with -layers"
    )


def test_larger_kernels_do_not_go_into_smaller_ones():
    with pytest.raises(DeepsegError) as refusal:
        filled(
            B_OF_FOUR.replace("[3, 3, [3, 1, 3], 3]}", "[3, 1, [3, 1, 3], 3]}"), kernels="centre"
        )
    assert str(refusal.value) == (
        "[kernel-shape] got a kernel of 3 x 3 x 3 in normal.2 of the older model; expected "
        "1 x 1 x 1, as in normal.2 of the new one; fix: leave normal.2 out with -layers"
    )


def test_a_walk_ends_in_each_pathway_where_something_differs_and_says_so():
    settings = config(A)
    deeper = A.replace("[3, 4, 5, 6], kernels: [3, 3, [3, 1, 3], 3]", "[3, 4, 5, 6, 6], kernels: 3")
    deeper = deeper.replace("[2, 3, 4, 5]", "[2, 3, 4, 5, 5]").replace(
        "3, [3, 1, 3], 3]", "3, [3, 1, 3], 3, 3]"
    )
    start = fresh(deeper)
    plan = make_plan(older(), config(deeper), start, TransferRules(depth="first-common"))
    table = {row.layer: (row.source, row.new) for row in plan.layers}
    assert table == {
        "normal.1": ("normal.1", ""),
        "normal.2": ("normal.2", ""),
        "normal.3": ("", "stopped here: kernel 3 x 1 x 3 in the source, 3 x 3 x 3 in the model"),
        "normal.4": ("", "behind normal.3, where the walk stopped"),
        "normal.5": ("", "behind normal.3, where the walk stopped"),
        "sub1.1": ("sub1.1", ""),
        "sub1.2": ("sub1.2", ""),
        "sub1.3": ("sub1.3", ""),
        "sub1.4": ("sub1.4", ""),
        "sub1.5": ("", "stopped here: only in the new model"),
        "fc.1": ("", "behind normal.3, sub1.5, where the walk stopped"),
        "fc.2": ("", "behind normal.3, sub1.5, where the walk stopped"),
        "fc.3": ("", "behind normal.3, sub1.5, where the walk stopped"),
    }
    assert settings.channels == config(deeper).channels
    result = applied(plan, start)
    for name, tensor in result.items():
        address = ".".join(name.split(".")[:2])
        assert torch.equal(tensor, (older().tensors if table[address][0] else start)[name]), name


def test_statistics_of_another_window_begin_at_their_mean():
    settings = config(A, batch_norm={"statistics": "window", "length": 4})
    start = weights(settings, 2)
    result = applied(make_plan(older(), settings, start, TransferRules()), start)
    mean = older().tensors["normal.2.norm.running_mean"]
    assert torch.equal(result["normal.2.norm.running_mean"], mean)
    assert torch.equal(result["normal.2.norm.window_mean"], mean.expand(4, -1))
    assert int(result["normal.2.norm.steps"]) == 0


def test_windows_of_one_length_come_with_their_rows_and_their_place():
    settings = config(A, batch_norm={"statistics": "window", "length": 4})
    tensors = weights(settings, 1)
    tensors["normal.2.norm.steps"] = torch.tensor(9)
    source = Source("A.save", "deepseg model", tensors, "0" * 64, settings)
    start = weights(settings, 2)
    result = applied(make_plan(source, settings, start, TransferRules()), start)
    assert torch.equal(result["normal.2.norm.window_var"], tensors["normal.2.norm.window_var"])
    assert int(result["normal.2.norm.steps"]) == 9


def test_flat_kernels_are_matched_plane_by_plane():
    low = A.replace("[3, 3, [3, 1, 3], 3]}\nsub", "3, low_rank: [4]}\nsub")
    wide = low.replace("[3, 4, 5, 6]", "[3, 4, 5, 9]")
    settings = config(low)
    source = Source("A.save", "deepseg model", weights(settings, 1), "0" * 64, settings)
    start = fresh(wide)
    result = applied(make_plan(source, config(wide), start, TransferRules()), start)
    for plane in ("xy", "yz", "xz"):
        name = f"normal.4.conv.{plane}.weight"
        assert torch.equal(result[name][:2], source.tensors[name])
        assert torch.equal(result[name][2:], start[name][2:])


def test_a_plan_accounts_for_every_number_and_every_tensor():
    start = fresh(B)
    plan = make_plan(older(), config(B), start, TransferRules(layers=("1", "2", "5")))
    record = json.loads(json.dumps(plan.record()))
    rows = {row["tensor"]: row for row in record["tensors"]}
    assert list(rows) == list(start)
    result = applied(plan, start)
    for name, tensor in start.items():
        changed = int((result[name] != tensor).sum())
        zeros = int((result[name] == 0).sum()) if name.endswith("1.conv.weight") else 0
        assert changed <= rows[name]["filled"] <= changed + zeros, name
        assert rows[name]["values"] == tensor.numel()
    assert rows["fc.1.conv.weight"]["maps"] == [
        ["0-6 from 0-6", "7-13 new"],
        ["0-5 from 0-5", "6-11 new", "12-16 from 6-10", "17-31 new"],
    ]
    assert rows["normal.1.conv.weight"]["maps"] == [
        ["0-2 from 0-2", "3-5 new"], ["0 from 1", "1 zero", "2 from 0"],
    ]  # fmt: skip
    assert set(record["target_only"]) == {name for name in rows if rows[name]["filled"] == 0}
    assert "fc.3.bias" in record["source_only"]


def test_the_table_says_what_became_of_every_layer():
    start = fresh(B)
    plan = make_plan(older(), config(B), start, TransferRules(layers=("1", "2", "5")))
    assert plan.table() == [
        ["normal.1", "normal.1", "3/6", "2/3",
         "3 kernels in the source; DWI is not in the source and starts at zero"],
        ["normal.2", "normal.2", "4/8", "3/6", "4 kernels in the source; 3 inputs in the source"],
        ["normal.3-4", "", "", "", "not asked for"],
        ["normal.5-8", "", "", "", "normal of the source ends before it"],
        ["sub1.1", "sub1.1", "2/4", "2/3",
         "2 kernels in the source; DWI is not in the source and starts at zero"],
        ["sub1.2", "sub1.2", "3/6", "2/4", "3 kernels in the source; 2 inputs in the source"],
        ["sub1.3-4", "", "", "", "not asked for"],
        ["sub1.5-8", "", "", "", "sub1 of the source ends before it"],
        ["sub2.1", "sub1.1", "2/4", "2/3",
         "2 kernels in the source; DWI is not in the source and starts at zero"],
        ["sub2.2", "sub1.2", "3/6", "2/4", "3 kernels in the source; 2 inputs in the source"],
        ["sub2.3-4", "", "", "", "not asked for"],
        ["sub2.5-8", "", "", "", "sub1 of the source ends before it"],
        ["fc.1", "fc.1", "7/14", "11/32",
         "7 kernels in the source; normal: 6 inputs in the source; normal: reads normal.8, in "
         "the source normal.4; sub1: 5 inputs in the source; sub1: reads sub1.8, in the source "
         "sub1.4; inputs from sub2 are new"],
        ["fc.2-3", "", "", "", "not asked for"],
    ]  # fmt: skip
    assert plan.notes == (
        "pathways: normal from normal, sub1 from sub1, sub2 from sub1 (factor 5 x 5 x 5, in the "
        "source 3 x 3 x 3)",
        "left behind in the source: normal.3-4, sub1.3-4, fc.2-3",
    )


def test_pathways_correspond_by_their_resolution_in_mm():
    finer = config(
        A.replace("factors: [3]", "factors: [[2, 2, 1], [6, 6, 3]]"), classes=["background", "x"]
    )
    source = Source(
        "A.save",
        "deepseg model",
        older().tensors,
        "0" * 64,
        config(A),
        cohort=TrainingCohort((4, 4, 3)),
    )
    start = weights(finer, 2)
    rules = TransferRules(spacing_mm=(2, 2, 3), layers=("1", "2", "5"))
    with pytest.raises(DeepsegError) as refusal:  # A's normal pathway has 3 maps, sub1 of it 2
        make_plan(source, finer, start, TransferRules(spacing_mm=(2, 2, 2)))
    assert str(refusal.value) == (
        "[spacing-unmatched] got pathways at 2 x 2 x 2 mm, 4 x 4 x 2 mm, 12 x 12 x 6 mm; expected "
        "one at 4 x 4 x 3 mm, 12 x 12 x 9 mm, as in the source; fix: choose factors so that "
        "factor x spacing agrees, or name pathways with -pathways"
    )
    plan = make_plan(source, finer, start, rules)
    assert plan.notes[0] == "pathways: normal from nothing, sub1 from normal, sub2 from sub1"
    result, old = applied(plan, start), older().tensors
    assert torch.equal(result["sub2.1.conv.weight"], old["sub1.1.conv.weight"])
    assert torch.equal(result["sub1.1.conv.weight"], old["normal.1.conv.weight"][:2])
    assert torch.equal(result["normal.1.conv.weight"], start["normal.1.conv.weight"])
    kernel = result["fc.1.conv.weight"]
    assert torch.equal(kernel[:, 6:11], old["fc.1.conv.weight"][:, :5])
    assert torch.equal(kernel[:, 11:], old["fc.1.conv.weight"][:, 6:])
    assert torch.equal(kernel[:, :6], start["fc.1.conv.weight"][:, :6])
