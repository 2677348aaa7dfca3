"""Several older models, one after the other: each fills what those before left new."""

import pytest
import torch

import deepseg
from deepseg.commands.new_model import new_model, plan_transfer
from deepseg.errors import DeepsegError
from deepseg.transfer.plan import applied
from deepseg.transfer.rules import TransferRules

MODEL = """\
name: small
channels: [T1]
classes: [background, {}]
normal: {{feature_maps: [3, 4]}}
fc: {{feature_maps: [5]}}
segments: {{train: 9}}
"""
BOTH = """\
name: both
channels: [T1]
classes: [background, lesion, oedema]
normal: {feature_maps: [3, 4]}
subsampled: {factors: [3]}
fc: {feature_maps: [5]}
segments: {train: 9}
"""
RULES = {
    "layers": ("all",),
    "pathways": {"normal": "1:normal", "sub1": "2:normal"},
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, noun, seed in (("A", "lesion", 1), ("B", "oedema", 2)):
        (tmp_path / f"{name}.yaml").write_text(MODEL.format(noun))
        new_model(f"{name}.yaml", out=f"{name}.save", seed=seed, quiet=True)
    (tmp_path / "both.yaml").write_text(BOTH)
    return tmp_path


def weights(name: str) -> dict[str, torch.Tensor]:
    return deepseg.load(f"{name}.save").weights


def both(out="C.save", rules=RULES, pretrained=("A.save", "B.save")):
    return new_model(
        "both.yaml", pretrained=pretrained, rules=TransferRules(**rules), out=out, quiet=True
    )


def test_two_experts_become_one_network(place):
    both()
    first, second, result = weights("A"), weights("B"), weights("C")
    for name, tensor in result.items():
        if name.startswith("normal"):
            assert torch.equal(tensor, first[name])
        if name.startswith("sub1"):
            assert torch.equal(tensor, second[name.replace("sub1", "normal")])
    kernel = result["fc.1.conv.weight"]
    assert torch.equal(kernel[:, :4], first["fc.1.conv.weight"])
    assert torch.equal(kernel[:, 4:], second["fc.1.conv.weight"])
    head = result["fc.2.conv.weight"]
    assert torch.equal(head[:2], first["fc.2.conv.weight"])
    assert torch.equal(head[2], second["fc.2.conv.weight"][1])


def test_the_record_and_the_provenance_tell_of_both(place):
    both()
    plan = plan_transfer(
        "both.yaml", ["A.save", "B.save"], rules=TransferRules(**RULES), quiet=True
    )
    assert [str(each.source.file) for each in (*plan.earlier, plan)] == ["A.save", "B.save"]
    record = plan.record()
    assert [entry["source"]["file"] for entry in record["earlier"]] == ["A.save"]
    rows = {row["tensor"]: row for row in record["tensors"]}
    assert rows["normal.1.conv.weight"]["filled"] == 0
    assert rows["normal.1.conv.weight"]["from"] is None
    assert rows["fc.1.conv.weight"]["filled"] == 4 * 5
    assert rows["fc.2.bias"]["filled"] == 1
    words = deepseg.load("C.save").provenance.words()
    assert (words["weights from (1)"], words["weights from"]) == ("A.save", "B.save")
    assert words["rules"] == {"layers": ["all"], "pathways": {"normal": "new", "sub1": "normal"}}
    table = {row[0]: row[-1] for row in plan.table()}
    assert table["fc.1"].endswith("only what was left new")
    shown = deepseg.show("C.save")
    assert "taken from A.save" in shown
    assert "taken from B.save" in shown


def test_counts_and_weights_agree(place):
    plan = plan_transfer(
        "both.yaml", ["A.save", "B.save"], rules=TransferRules(**RULES), quiet=True
    )
    names = [tensor.name for tensor in plan.tensors]
    start = {
        name: torch.full(tensor.shape, 77.0)
        for name, tensor in zip(names, plan.tensors, strict=True)
    }
    result = applied(plan, start)
    for *older, tensor in zip(*(each.tensors for each in plan.earlier), plan.tensors, strict=True):
        changed = int((result[tensor.name] != 77).sum())
        assert changed == tensor.filled + sum(each.filled for each in older), tensor.name


def test_an_older_model_that_fills_nothing_is_refused(place):
    with pytest.raises(DeepsegError) as refusal:
        both(rules={"layers": ("all",)}, pretrained=("A.save", "A.save"))
    assert str(refusal.value) == (
        "[nothing-taken] A.save: got no weights that the older models before it left new; expected "
        "some for each of them; fix: leave parts for it, such as -pathways sub1=2:normal"
    )
    assert not (place / "C.save").exists()


def test_several_functions_cannot_be_kept(place):
    with pytest.raises(DeepsegError) as refusal:
        both(rules={"width": "net2net"})
    assert str(refusal.value) == (
        "[transfer-rules] got several older models where the function has to be kept; expected one "
        "older model, whose function is kept; fix: leave out -width net2net and -depth identity, "
        "or all older models but one"
    )


def test_a_channel_that_starts_at_zero_is_filled_by_the_next(place):
    (place / "both.yaml").write_text(BOTH.replace("[T1]", "[T1, FLAIR]"))
    (place / "B.yaml").write_text(MODEL.format("oedema").replace("[T1]", "[FLAIR]"))
    new_model("B.yaml", out="D.save", seed=2, quiet=True)
    both(rules={"layers": ("all",)}, pretrained=("A.save", "D.save"))
    kernel = weights("C")["normal.1.conv.weight"]
    assert torch.equal(kernel[:, 0], weights("A")["normal.1.conv.weight"][:, 0])
    assert torch.equal(kernel[:, 1], weights("D")["normal.1.conv.weight"][:, 0])
