"""``-show``: what lies in a file, in tables that fit a terminal of 80 columns."""

import hashlib
import json
import xml.etree.ElementTree as ElementTree
from io import StringIO

import pytest
import torch
from rich.console import Console as RichConsole
from safetensors.torch import save_file

import deepseg
from deepseg.errors import DeepsegError
from deepseg.report.tables import rich_table
from deepseg.sessions.tables import PLAN_COLUMNS
from deepseg.transfer.rules import TransferRules

OLD = """\
name: old
channels: [FLAIR, T1c]
classes: [background, lesion]
normal: {feature_maps: [3, 4, 5]}
subsampled: {factors: [3]}
fc: {feature_maps: [7]}
segments: {train: 17}
"""
NEW = """\
name: new
channels: [T1c, DWI]
classes: [background, lesion, core]
normal: {feature_maps: [6, 4, 5]}
subsampled: {factors: [3, 5]}
fc: {feature_maps: [7]}
segments: {train: 25}
"""
TENSORS = {
    "module.conv.weight": torch.arange(24.0).reshape(2, 3, 4, 1, 1).half(),
    "module.norm.running_mean": torch.ones(3),
    "module.norm.num_batches_tracked": torch.tensor(5),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("m.safetensors", "safetensors"),
        ("m.pt", "torch state dict"),
        ("m.ckpt", "torch state dict, entry state_dict"),
    ],
)
def test_a_file_of_weights_is_shown_without_a_model(folder, name, kind):
    if name == "m.safetensors":
        save_file(TENSORS, name)
    else:
        torch.save({"state_dict": TENSORS} if name == "m.ckpt" else TENSORS, name)
    sha256 = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    lines = deepseg.show(name).splitlines()
    width = len("norm.num_batches_tracked")
    assert lines[:2] == ["tensors", f"{'name':{width}}  {'shape':9}  type"]
    assert sorted(lines[3:6]) == [
        f"{'conv.weight':{width}}  2x3x4x1x1  float16",
        f"{'norm.num_batches_tracked':{width}}  {'-':9}  int64",
        f"{'norm.running_mean':{width}}  {'3':9}  float32",
    ]
    assert lines[6:] == [
        "about it",
        f"file     {name}",
        f"kind     {kind}",
        f"sha256   {sha256}",
        "tensors  3 with 28 values",
    ]


def test_a_file_of_weights_that_is_not_there_is_refused(folder):
    with pytest.raises(DeepsegError) as error:
        deepseg.show("m.pt")
    assert str(error.value) == (
        "[tensors-missing] m.pt: got no such file; expected a file of named tensors; fix: correct "
        "the path"
    )


@pytest.fixture
def transferred(folder, capsys):
    """A model B.save that was filled from A.save, and the table that was shown then."""
    (folder / "A.yaml").write_text(OLD)
    (folder / "B.yaml").write_text(NEW)
    deepseg.new_model("A.yaml", out="A.save", quiet=True)
    rules = TransferRules(
        layers=("1-2", "fc.1", "head"),
        pathways={"sub2": "normal"},
        channels={"DWI": "copy:FLAIR"},
        classes={"core": "lesion"},
    )
    deepseg.new_model("B.yaml", pretrained="A.save", rules=rules, out="B.save")
    return capsys.readouterr().out


def test_a_model_shows_the_table_with_which_it_was_filled(transferred):
    then = transferred.partition("weights from A.save (deepseg model)\n")[2]
    then = then.partition("pathways: ")[0]
    assert then.count("\n") > 10
    assert deepseg.show("B.save").partition("taken from A.save\n")[2] == then


def test_a_model_shows_the_rules_as_they_are_typed(folder, transferred):
    about = deepseg.show("B.save").partition("about it\n")[2].partition("taken from")[0]
    record = json.loads((folder / "B.transfer.json").read_text("utf-8"))
    filled = sum(tensor["filled"] > 0 for tensor in record["tensors"])
    old = hashlib.sha256((folder / "A.save").read_bytes()).hexdigest()
    assert about.splitlines()[2:] == [
        "initialised     seed 0",
        "weights from    A.save",
        f"sha256          {old}",
        f"tensors         {filled} of {len(record['tensors'])}",
        "rule -layers    1-2 fc.1 head",
        "rule -pathways  sub2=normal",
        "rule -channels  DWI=copy:FLAIR",
        "rule -classes   core=lesion",
    ]


def test_a_model_that_was_filled_from_nothing_shows_no_such_table(folder, transferred):
    assert "taken from" not in deepseg.show("A.save")
    assert "rule" not in deepseg.show("A.save")


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_fit_a_terminal(transferred, width):
    page = StringIO()
    rows = deepseg.load("B.save").provenance.filled_from.layers
    RichConsole(file=page, width=width).print(rich_table(PLAN_COLUMNS, rows))
    lines = page.getvalue().splitlines()
    assert max(len(line) for line in lines) <= width
    assert all(any(line.startswith(row[0]) for line in lines) for row in rows)


def test_the_network_is_drawn_where_a_picture_is_wanted(model, place, command):
    result = command("-show", model, "-out", "network.svg")
    assert (result.returncode, result.stdout) == (0, "network drawn in network.svg\n")
    picture = ElementTree.parse(place / "network.svg")
    titles = [title.text for title in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert [title.split(",")[0] for title in titles if "." in title] == [
        "normal.1", "normal.2", "sub1.1", "sub1.2", "fc.1",
    ]  # fmt: skip


def test_layers_of_a_transfer_are_drawn_in_the_colour_of_their_origin(model, place, command):
    arguments = ("-newModel", "model.yaml", "-pretrained", model, "-layers", "1", "-out", "B.save")
    assert command(*arguments).returncode == 0
    assert command("-show", "B.save", "-out", "network.svg").returncode == 0
    texts = (place / "network.svg").read_text("utf-8")
    assert "from M.save" in texts
    assert ">new<" in texts


def test_a_picture_of_no_network_is_refused(model, place, refused):
    place.write("there.svg", "mine")
    assert refused("-show", "train.yaml", "-out", "a.svg") == [
        "[no-network] train.yaml: got a file without the pathways of a network; expected a .save, "
        "the folder of a session, or a model file; fix: give one of these, or leave -out away"
    ]
    assert refused("-show", model, "-out", "a.png") == [
        "[output-ending] a.png: got the ending '.png'; expected .svg, in which the network is "
        "drawn; fix: end the name after -out with .svg"
    ]
    assert refused("-show", model, "-out", "there.svg") == [
        "[file-exists] there.svg: got a file that is there; expected a name that is free; fix: "
        "choose another -out, or remove the file"
    ]
