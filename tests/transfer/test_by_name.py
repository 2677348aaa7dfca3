"""Files that know names only: what has the same name and shape is taken, all else is said."""

import pytest
import torch
import yaml
from safetensors.torch import save_file

from deepseg.config.model import ModelConfig
from deepseg.errors import DeepsegError
from deepseg.model.network import Network
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import applied
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import read_source

MODEL = """\
channels: [FLAIR, T1c]
classes: [background, lesion]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [5]}
segments: {train: 9}
"""
CONFIG = ModelConfig.model_validate(yaml.safe_load(MODEL))
HEAD = "fc.2."


def weights(seed):
    """Random everywhere, statistics included; variances positive."""
    rng = torch.Generator().manual_seed(seed)
    result = {}
    for name, tensor in Network(CONFIG, rng=rng).state_dict().items():
        result[name] = torch.randn(tensor.shape, generator=rng).to(tensor.dtype)
        if name.endswith("_var"):
            result[name] = result[name].abs() + 0.5
    return result


OLD, NEW = weights(1), weights(2)


def plan(file, **rules):
    return make_plan(read_source(file, CONFIG), CONFIG, NEW, TransferRules(**rules))


def state_dict(folder, tensors):
    torch.save(tensors, folder / "m.pt")
    return folder / "m.pt"


def refusal(file, **rules) -> str:
    with pytest.raises(DeepsegError) as error:
        plan(file, **rules)
    return str(error.value).replace(f"{file.parent}/", "")


def without(*beginnings):
    return {name: tensor for name, tensor in OLD.items() if not name.startswith(beginnings)}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("write", [torch.save, save_file])
def test_tensors_of_our_names_are_taken_all_but_the_head(tmp_path, prefix, write):
    file = tmp_path / ("m.pt" if write is torch.save else "m.safetensors")
    write({prefix + name: tensor for name, tensor in OLD.items()}, file)
    result = applied(plan(file), NEW)
    assert result.keys() == NEW.keys()
    for name, tensor in result.items():
        assert torch.equal(tensor, (NEW if name.startswith(HEAD) else OLD)[name]), name


@pytest.mark.parametrize("prefix", ["model.", "net.", "model.module._orig_mod.", "a.b.c.d."])
def test_what_programs_leave_in_front_of_names_is_found(tmp_path, prefix):
    rest = {"loss.weight": torch.ones(2), "teacher.fc.1.norm.weight": torch.ones(3)}
    tensors = {prefix + name: tensor for name, tensor in OLD.items()}
    new = plan(state_dict(tmp_path, {"epoch": 3, "state_dict": rest | tensors}))
    result = applied(new, NEW)
    for name, tensor in result.items():
        assert torch.equal(tensor, (NEW if name.startswith(HEAD) else OLD)[name]), name
    assert new.notes[1] == f"names are compared without {prefix!r} in front"
    assert "Skipping parameter loss.weight: not found in model" in new.notes
    assert new.source.kind == "torch state dict, entry state_dict"


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("all",), ("",)),
        (("normal.1-2", "head"), ("normal.", HEAD)),
        (("sub1.2", "fc.1"), ("sub1.2.", "fc.1.")),
    ],
)
def test_layers_are_chosen_by_the_names_that_the_new_model_has(tmp_path, words, taken):
    result = applied(plan(state_dict(tmp_path, OLD), layers=words), NEW)
    for name, tensor in result.items():
        assert torch.equal(tensor, (OLD if name.startswith(taken) else NEW)[name]), name


def test_numbers_of_another_type_become_ours(tmp_path):
    halves = {name: tensor.half() for name, tensor in OLD.items() if tensor.is_floating_point()}
    result = applied(plan(state_dict(tmp_path, halves)), NEW)
    kernel = "normal.2.conv.weight"
    assert result[kernel].dtype == torch.float32
    assert torch.equal(result[kernel], OLD[kernel].half().float())


def test_what_is_skipped_is_said_in_both_directions(tmp_path):
    tensors = without("fc.1.norm.", HEAD)
    tensors["sub1.1.conv.weight"] = torch.ones(3, 4, 3, 3, 3)
    tensors["decoder.weight"] = torch.ones(2)
    result = plan(state_dict(tmp_path, tensors))
    assert result.notes == (
        "channels and classes go by position: the file does not name them",
        "Skipping layer decoder: not found in model",
        "Skipping parameter decoder.weight: not found in model",
        "Skipping layer fc.1.norm: not found in the source",
        "Skipping parameter fc.1.norm.weight: not found in the source",
        "Skipping parameter fc.1.norm.bias: not found in the source",
        "Skipping parameter fc.1.norm.running_mean: not found in the source",
        "Skipping parameter fc.1.norm.running_var: not found in the source",
        "Skipping parameter sub1.1.conv.weight: of shape 3 x 4 x 3 x 3 x 3 in the source, "
        "3 x 2 x 3 x 3 x 3 here",
    )
    assert result.source_only == ("sub1.1.conv.weight", "decoder.weight")
    assert {name for name in result.target_only if not name.startswith(HEAD)} == {
        "sub1.1.conv.weight",
        "fc.1.norm.weight",
        "fc.1.norm.bias",
        "fc.1.norm.running_mean",
        "fc.1.norm.running_var",
    }


def test_the_table_counts_the_tensors_of_every_layer(tmp_path):
    tensors = without("normal.2.conv", "sub1.1.")
    assert plan(state_dict(tmp_path, tensors), layers=("normal.1-2", "sub1.1")).table() == [
        ["normal.1", "normal.1", "2/2 tensors", "", ""],
        ["normal.2", "normal.2", "5/6 tensors", "", "not in the source"],
        ["sub1.1", "", "", "", "not in the source"],
        ["sub1.2", "", "", "", "not asked for"],
        ["fc.1", "", "", "", "not asked for"],
        ["fc.2", "", "", "", "new classification layer"],
    ]


def test_too_few_matching_tensors_stop_the_transfer(tmp_path):
    expected = [name for name in NEW if not name.startswith(HEAD)]
    half = -(-len(expected) // 2)
    few = {name: OLD[name] for name in expected[: half - 1]} | {"decoder": OLD[HEAD + "bias"]}
    file = state_dict(tmp_path, few)
    share = half - 1
    assert refusal(file) == (
        f"[weights-unmatched] m.pt: got {share} of {len(expected)} tensors of the new model in the "
        f"file ({expected[share]} is not in the source); expected at least 50%; fix: give a file "
        "of the same "
        "network, or lower -minMatch"
    )
    assert len(plan(file, min_match=share / len(expected)).filled) == share
    few[expected[share]] = OLD[expected[share]]
    assert len(plan(state_dict(tmp_path, few)).filled) == half


def test_a_file_of_another_network_is_refused_whatever_is_asked(tmp_path):
    file = state_dict(
        tmp_path, {"normal.1.convs.weight": torch.ones(1), "encoder.bias": torch.ones(1)}
    )
    expected = sum(not name.startswith(HEAD) for name in NEW)
    for share in (0.0, 0.5):
        assert refusal(file, min_match=share) == (
            f"[weights-unmatched] m.pt: got 0 of {expected} tensors of the new model in the file "
            "(normal.1.input_bias is not in the source); expected tensors of the same names; "
            "fix: give a file "
            "of the same network"
        )
    assert "did you mean 'normal.1.convs.weight'?" in refusal(
        state_dict(
            tmp_path,
            {
                "normal.1.convs.weight": torch.ones(1),
                "normal.1.input_bias": NEW["normal.1.input_bias"],
            },
        ),
        layers=("normal.1",),
        min_match=1.0,
    )


@pytest.mark.parametrize(
    ("rules", "got"),
    [
        ({"layers": ("normal.1", "2", "4-5")}, "-layers 2 4-5"),
        ({"pathways": {"sub1": "normal"}}, "-pathways sub1=normal"),
        ({"spacing_mm": (2.0, 2.0, 1.5)}, "-spacing 2 2 1.5"),
        (
            {"channels": {"T1c": "zero", "FLAIR": "T1c"}, "kernels": "centre"},
            "-kernels centre, -channels T1c=zero FLAIR=T1c",
        ),
        ({"depth": "first-common", "layers": ("all",), "min_match": 0.2}, "-depth first-common"),
        ({"width": "net2net"}, "-width net2net"),
        ({"classes": {"lesion": "tumour"}}, "-classes lesion=tumour"),
    ],
)
def test_rules_that_need_to_know_layers_are_refused(tmp_path, rules, got):
    assert refusal(state_dict(tmp_path, OLD), **rules) == (
        f"[transfer-rules] got {got} for a torch state dict; expected rules that need names only: "
        "this file does not say its layers; fix: leave them out, or take over by name first and "
        "use the .save"
    )


@pytest.mark.parametrize("word", ["nomral.1", ""])
def test_layers_that_the_new_model_does_not_have_are_refused(tmp_path, word):
    hint = "; did you mean 'normal.1'?" if word else ""
    assert refusal(state_dict(tmp_path, OLD), layers=(word,)) == (
        f"[layer-unknown] got {word!r}; expected layers of normal.1-2, sub1.1-2, fc.1-2; fix: name "
        f"layers as pathway.number or pathway.first-last{hint}"
    )


def test_a_plan_by_name_accounts_for_every_number(tmp_path):
    result = plan(state_dict(tmp_path, without("sub1.")), min_match=0.1)
    for entry in result.tensors:
        is_taken = not entry.name.startswith(("sub1.", HEAD))
        assert entry.values == NEW[entry.name].numel()
        assert entry.filled == (entry.values if is_taken else 0), entry.name
    values = sum(tensor.numel() for tensor in NEW.values())
    filled = sum(entry.filled for entry in result.tensors)
    assert result.summary() == (
        f"{len(result.filled)} of {len(NEW)} tensors filled from {tmp_path / 'm.pt'}, "
        f"{filled:,} of {values:,} numbers ({100 * filled // values} %)"
    )
