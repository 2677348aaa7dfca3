"""Single layers, pathways and classes as the user names them: filled from there, or left new."""

import pytest
import torch

from deepseg.errors import DeepsegError
from deepseg.transfer.make_plan import make_plan
from deepseg.transfer.plan import applied
from deepseg.transfer.rules import TransferRules
from deepseg.transfer.source import Source
from tests.transfer.test_transfer import A, config, fresh, older

LAYERS = ["normal.1", "normal.2", "normal.3", "normal.4", "sub1.1", "sub1.2", "sub1.3", "sub1.4"]


class Transfer:
    """A second network of A's description, filled from the first."""

    def __init__(self, source=None, text=A, **rules):
        self.start = fresh(text)
        self.plan = make_plan(source or older(), config(text), self.start, TransferRules(**rules))
        self.weights = applied(self.plan, self.start)

    def is_from(self, target: str, source: str) -> bool:
        """All tensors of a layer are those of a layer of the source."""
        names = [name for name in self.weights if name.startswith(f"{target}.")]
        return all(
            torch.equal(self.weights[name], older().tensors[name.replace(target, source, 1)])
            for name in names
        )

    def is_new(self, layer: str) -> bool:
        names = [name for name in self.weights if name.startswith(f"{layer}.")]
        return all(torch.equal(self.weights[name], self.start[name]) for name in names)


def refusal(*arguments, **rules) -> list[str]:
    with pytest.raises(DeepsegError) as error:
        Transfer(*arguments, **rules)
    return str(error.value).splitlines()


def test_a_layer_is_filled_from_the_one_that_is_named_and_others_as_ever():
    new = Transfer(layer_map={"sub1.2": "normal.4", "normal.2": "new"})
    old, result = older().tensors, new.weights["sub1.2.conv.weight"]
    assert torch.equal(result, old["normal.4.conv.weight"][:3, :2])
    assert torch.equal(new.weights["sub1.2.norm.weight"], old["normal.4.norm.weight"][:2])
    assert new.is_new("normal.2")
    rest = {*LAYERS, "fc.1", "fc.2"} - {"sub1.2", "normal.2"}
    assert all(new.is_from(layer, layer) for layer in rest)
    rows = {row[0]: row for row in new.plan.table()}
    assert rows["normal.2"] == ["normal.2", "", "", "", "left new, as asked"]
    assert rows["sub1.2"][1] == "normal.4"
    assert new.plan.notes[-1] == "left behind in the source: normal.2, sub1.2, fc.3"


def test_a_map_fills_layers_that_the_older_model_is_too_short_for():
    deeper = A.replace("[7, 8]", "[7, 8, 8]")
    assert refusal(text=deeper)[0].startswith("[source-too-short]")
    new = Transfer(text=deeper, layer_map={"fc.3": "fc.2", "fc.4": "fc.3"})
    assert torch.equal(new.weights["fc.3.conv.weight"][:, :7], older().tensors["fc.2.conv.weight"])
    assert new.is_from("fc.4", "fc.3")


def test_a_pathway_and_its_block_are_left_new():
    new = Transfer(pathways={"sub1": "new"})
    assert new.is_new("sub1")
    assert all(new.is_from(layer, layer) for layer in LAYERS if layer.startswith("normal"))
    kernel = new.weights["fc.1.conv.weight"]
    assert torch.equal(kernel[:, :6], older().tensors["fc.1.conv.weight"][:, :6])
    assert torch.equal(kernel[:, 6:], new.start["fc.1.conv.weight"][:, 6:])
    assert new.plan.notes == (
        "pathways: normal from normal, sub1 from nothing",
        "left behind in the source: sub1.1-4, fc.3",
    )


def test_a_class_is_left_new_and_the_others_come_along():
    new = Transfer(classes={"lesion": "new"})
    old, head = older().tensors, new.weights["fc.3.conv.weight"]
    assert torch.equal(head[0], old["fc.3.conv.weight"][0])
    assert torch.equal(head[1], new.start["fc.3.conv.weight"][1])
    assert new.weights["fc.3.bias"].tolist() == [
        old["fc.3.bias"][0].item(),
        new.start["fc.3.bias"][1].item(),
    ]
    assert new.plan.table()[-1][-1] == "class lesion is new; classes left behind: lesion"


FIX = "fix: write new=older, such as normal.3=normal.2"
ALL = "normal.1-4, sub1.1-4, fc.1-3"


@pytest.mark.parametrize(
    ("asked", "problems"),
    [
        (
            {"normal.9": "normal.2", "normal.2": "nomral.3"},
            [
                f"[layer-unknown] got -map normal.9=normal.2; expected a layer of the new model: "
                f"{ALL}; {FIX}; did you mean 'normal.4'?",
                f"[layer-unknown] got -map normal.2=nomral.3; expected a layer of the older model: "
                f"{ALL}; {FIX}; did you mean 'normal.3'?",
            ],
        ),
        (
            {"normal.2": "normal.1", "fc.3": "fc.2"},
            [
                "[layer-map] got -map normal.2=normal.1, a layer that reads the image for a layer "
                "between maps; expected layers of one kind: their inputs or outputs are of one "
                "kind too; fix: name another layer",
                "[layer-map] got -map fc.3=fc.2, a layer between maps for a classification layer; "
                "expected layers of one kind: their inputs or outputs are of one kind too; fix: "
                "name another layer",
            ],
        ),
    ],
)
def test_a_map_that_cannot_be_is_refused(asked, problems):
    assert refusal(layer_map=asked) == problems


def test_a_map_where_the_function_has_to_be_kept_is_refused():
    assert refusal(layer_map={"fc.1": "fc.1"}, width="net2net") == [
        "[transfer-rules] got -map where the function has to be kept; expected one of the two; "
        "fix: leave one of the options out"
    ]


def test_names_of_another_network_are_mapped_onto_layers():
    shape = older().tensors["fc.2.conv.weight"].shape
    tensors = {"decoder.last.weight": torch.ones(shape), "normal.1.input_bias": torch.ones(2)}
    source = Source("A.pt", "torch state dict", tensors, "0" * 64, None)
    new = Transfer(source, layer_map={"fc.2": "decoder.last", "sub1.2": "new"}, min_match=0)
    assert torch.equal(new.weights["fc.2.conv.weight"], torch.ones(shape))
    assert not any("decoder" in note for note in new.plan.notes)
    rows = {row[0]: row for row in new.plan.table()}
    assert rows["fc.2"][1:3] == ["decoder.last", "1/6 tensors"]
    assert refusal(source, layer_map={"fc.9": "decoder.last"}, min_match=0) == [
        f"[layer-unknown] got -map fc.9=decoder.last; expected a layer of the new model: {ALL}; "
        "fix: write new=older, such as fc.2=decoder.last; did you mean 'fc.3'?"
    ]
