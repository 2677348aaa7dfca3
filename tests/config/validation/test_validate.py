"""From a file to a model: one problem per wrong place, in the order of the file, all at once."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.files.document import Document
from deepseg.config.files.yaml_file import read_yaml
from deepseg.config.settings import ConfigPath
from deepseg.config.validation.validate import validate
from deepseg.config.validation.validation_errors import problems_of
from deepseg.config.validation.validator_error import invalid
from deepseg.errors import DeepsegError

Count = Annotated[int, Field(ge=1, strict=True)]
Box = tuple[Count, Count, Count]
Padding = Literal["none", "zero", "mirror"]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Pathway(Strict):
    feature_maps: Annotated[tuple[Count, ...], Field(min_length=1)]
    kernels: Count | tuple[Count | Box, ...] = 3
    padding: Padding | tuple[Padding, ...] = "none"
    low_rank: list[int] | list[list[int]] = []
    spacing: tuple[float, float] | None = None

    @field_validator("low_rank")
    @classmethod
    def _no_first_layer(cls, low_rank):
        if 1 in low_rank:
            raise invalid(
                "low-rank-first",
                got="layer {1}",
                expected="layers from 2 on",
                fix="remove layer 1",
            )
        return low_rank


class Adam(Strict):
    name: Literal["adam"]
    learning_rate: Annotated[float, Field(gt=0)] = 0.001


class Sgd(Strict):
    name: Literal["sgd"]
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9


class Train(Strict):
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "train"
    epochs: Count
    normal: Pathway
    optimiser: Annotated[Adam | Sgd, Field(discriminator="name")] | None = None
    model: ConfigPath | None = None
    lists: dict[str, ConfigPath] | tuple[ConfigPath, ...] = ()
    label_map: dict[int, Annotated[int, Field(ge=0)]] = {}
    noise: float = 0
    pathways: list[Pathway] = []
    shape: Pathway | Adam | None = None
    even: int = 0
    workers: int = Field(1, alias="processes")

    @field_validator("even")
    @classmethod
    def _is_even(cls, even):
        if even % 2:
            raise ValueError("an even number")
        return even

    @model_validator(mode="after")
    def _no_model_without_optimiser(self):
        if self.model is not None and self.optimiser is None:
            raise invalid(
                "model-alone", got="only model", expected="optimiser too", fix="add optimiser"
            )
        return self


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(content: str) -> Train:
    Path("train.yml").write_text(content)
    return validate(Train, read_yaml(Path("train.yml")))


def refusals(content: str) -> str:
    with pytest.raises(DeepsegError) as refused:
        train(content)
    assert refused.value.exit_code == 2
    return str(refused.value)


GOOD = "epochs: 5\nnormal: {feature_maps: [3]}\n"
KEYS = (
    "name, epochs, normal, optimiser, model, lists, label_map, noise, pathways, shape, even, "
    "processes"
)
PATHWAY = "feature_maps, kernels, padding, low_rank, spacing"


def test_a_right_file_becomes_the_model():
    model = train("epochs: 5\nnormal:\n  feature_maps: [3, 4]\n  kernels: [3, [5, 5, 1]]\n")
    assert model == Train(epochs=5, normal=Pathway(feature_maps=(3, 4), kernels=(3, (5, 5, 1))))


def test_all_problems_come_at_once_in_the_order_of_the_file():
    assert refusals(
        "noise: .nan\nnormal:\n  padding: miror\n  kernel: 3\nepochs: 0\n"
        "optimiser: {name: sgd, momentum: 1}\n"
    ) == (
        "[config-value] train.yml:1 noise: got nan; expected a finite number; "
        "fix: write an ordinary number\n"
        "[config-missing-key] train.yml:2 normal: got no key 'feature_maps'; "
        "expected 'feature_maps' with a list of one or more whole numbers of at least 1; "
        "fix: add 'feature_maps' under 'normal'\n"
        "[config-value] train.yml:3 normal.padding: got 'miror'; "
        "expected one of: none, zero, mirror, or a list of these; "
        "fix: write one of these; did you mean 'mirror'?\n"
        f"[config-unknown-key] train.yml:4 normal.kernel: got the unknown key 'kernel'; "
        f"expected one of the keys {PATHWAY}; "
        "fix: correct or remove it; did you mean 'kernels'?\n"
        "[config-value] train.yml:5 epochs: got 0; expected a whole number of at least 1; "
        "fix: write a larger number\n"
        "[config-value] train.yml:6 optimiser.momentum: got 1; "
        "expected a number of at least 0 and below 1; fix: write a smaller number"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "even: 1.5",
            "[config-value] train.yml:3 even: got 1.5; expected a whole number; "
            "fix: write it without a fraction",
            id="a fraction",
        ),
        pytest.param(
            "even: many",
            "[config-value] train.yml:3 even: got 'many'; expected a whole number; "
            "fix: change this value",
            id="a word for a number",
        ),
        pytest.param(
            "even: 3",
            "[config-value] train.yml:3 even: got 3; expected an even number; "
            "fix: change this value",
            id="a plain ValueError of a validator",
        ),
        pytest.param(
            "even:",
            "[config-value] train.yml:3 even: got no value; expected a whole number; "
            "fix: write a value behind the key",
            id="nothing",
        ),
        pytest.param(
            "name: 3",
            "[config-value] train.yml:3 name: got 3; expected text; fix: put quotes around it",
            id="a number for text",
        ),
        pytest.param(
            "name: A",
            "[config-value] train.yml:3 name: got 'A'; "
            "expected text that fits the pattern ^[a-z]+$; fix: change this value",
            id="a pattern",
        ),
        pytest.param(
            "pathways: {a: true}",
            "[config-value] train.yml:3 pathways: got {a: true}; "
            f"expected a list of blocks with the keys {PATHWAY}; fix: change this value",
            id="a block for a list",
        ),
        pytest.param(
            "pathways: 3",
            "[config-value] train.yml:3 pathways: got 3; "
            f"expected a list of blocks with the keys {PATHWAY}; "
            "fix: write [3] for a list of one",
            id="a number for a list",
        ),
        pytest.param(
            "pathways:\n- feature_maps: [3]\n- feature_maps: []",
            "[config-value] train.yml:5 pathways[1].feature_maps: got []; "
            "expected a list of one or more whole numbers of at least 1; fix: add entries",
            id="inside a list",
        ),
        pytest.param(
            "pathways: [3]",
            "[config-value] train.yml:3 pathways[0]: got 3; "
            f"expected a block with the keys {PATHWAY}; "
            "fix: write its keys on the lines below, indented",
            id="a number for a block",
        ),
        pytest.param(
            "label_map: {4: -1}",
            "[config-value] train.yml:3 label_map[4]: got -1; "
            "expected a whole number of at least 0; fix: write a larger number",
            id="a value of a mapping",
        ),
        pytest.param(
            "label_map: {x: -1}",
            "[config-value] train.yml:3 label_map.x: got the key 'x'; "
            "expected a whole number; fix: change this value\n"
            "[config-value] train.yml:3 label_map.x: got -1; "
            "expected a whole number of at least 0; fix: write a larger number",
            id="key and value of a mapping",
        ),
        pytest.param(
            "model: [3]",
            "[config-value] train.yml:3 model: got [3]; expected a path; fix: change this value",
            id="a list for a path",
        ),
        pytest.param(
            "noise: " + "x" * 100,
            f"[config-value] train.yml:3 noise: got '{'x' * 76}...; expected a number; "
            "fix: change this value",
            id="a long text",
        ),
        pytest.param(
            "epoch: 3",
            "[config-unknown-key] train.yml:3 epoch: got the unknown key 'epoch'; "
            f"expected one of the keys {KEYS}; "
            "fix: correct or remove it; did you mean 'epochs'?",
            id="a misspelt key",
        ),
        pytest.param(
            "workers: 3",
            "[config-unknown-key] train.yml:3 workers: got the unknown key 'workers'; "
            f"expected one of the keys {KEYS}; fix: correct or remove it",
            id="the name of a field that has an alias",
        ),
        pytest.param(
            "processes: x",
            "[config-value] train.yml:3 processes: got 'x'; expected a whole number; "
            "fix: change this value",
            id="an alias",
        ),
        pytest.param(
            "momentum: 0.5",
            "[config-unknown-key] train.yml:3 momentum: got the unknown key 'momentum'; "
            f"expected one of the keys {KEYS}; fix: move it to 'optimiser.momentum'",
            id="a key of another block",
        ),
        pytest.param(
            "7: 3",
            "[config-unknown-key] train.yml:3 [7]: got the unknown key 7; "
            f"expected one of the keys {KEYS}; fix: correct or remove it",
            id="a number as a key",
        ),
        pytest.param(
            "optimiser: {name: adm}",
            "[config-value] train.yml:3 optimiser.name: got 'adm'; expected one of: adam, sgd; "
            "fix: write one of these; did you mean 'adam'?",
            id="an unknown tag",
        ),
        pytest.param(
            "optimiser: {momentum: 0.5}",
            "[config-missing-key] train.yml:3 optimiser: got no key 'name'; "
            "expected 'name' with one of: adam, sgd; fix: add 'name' under 'optimiser'",
            id="no tag",
        ),
        pytest.param(
            "optimiser: {name: adam, momentum: 0.5}",
            "[config-unknown-key] train.yml:3 optimiser.momentum: got the unknown key "
            "'momentum'; expected one of the keys name, learning_rate; "
            "fix: correct or remove it",
            id="a key of another tag",
        ),
        pytest.param(
            "optimiser: adam",
            "[config-value] train.yml:3 optimiser: got 'adam'; "
            "expected a block with the keys name, learning_rate, "
            "or a block with the keys name, momentum; "
            "fix: write its keys on the lines below, indented",
            id="a word for one of two blocks",
        ),
        pytest.param(
            "model: ~nobody-of-this-name/x",
            "[config-path] train.yml:3 model: got '~nobody-of-this-name/x'; "
            "expected a path, where '~' is the home folder of a known user; "
            "fix: write the whole path",
            id="an unknown home",
        ),
        pytest.param(
            "model: a.save",
            "[model-alone] train.yml: got only model; expected optimiser too; fix: add optimiser",
            id="a conflict between keys",
        ),
    ],
)
def test_a_wrong_line_is_explained(line, message):
    assert refusals(f"{GOOD}{line}\n") == message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        pytest.param(
            "kernels: x",
            "[config-value] train.yml:4 normal.kernels: got 'x'; "
            "expected a whole number of at least 1, or a list of entries, "
            "each a whole number of at least 1, or a list of 3 of these; fix: change this value",
            id="no member fits",
        ),
        pytest.param(
            "kernels: [3, 0]",
            "[config-value] train.yml:4 normal.kernels[1]: got 0; "
            "expected a whole number of at least 1, or a list of 3 of these; "
            "fix: change this value",
            id="an entry of a list",
        ),
        pytest.param(
            "kernels: [3, [3, 3, 0]]",
            "[config-value] train.yml:4 normal.kernels[1][2]: got 0; "
            "expected a whole number of at least 1; fix: write a larger number",
            id="an entry of a list in a list",
        ),
        pytest.param(
            "kernels: [[3, 3], 5]",
            "[config-value] train.yml:4 normal.kernels[0]: got [3, 3]; "
            "expected a whole number of at least 1, or a list of 3 of these; "
            "fix: change this value",
            id="a list that is too short",
        ),
        pytest.param(
            "padding: [none, zeros]",
            "[config-value] train.yml:4 normal.padding[1]: got 'zeros'; "
            "expected one of: none, zero, mirror; fix: write one of these; did you mean 'zero'?",
            id="a word in a list",
        ),
        pytest.param(
            "low_rank: [[2], [x, 3]]",
            "[config-value] train.yml:4 normal.low_rank[1][0]: got 'x'; "
            "expected a whole number; fix: change this value",
            id="the member with the fewest problems was meant",
        ),
        pytest.param(
            "low_rank: [x]",
            "[config-value] train.yml:4 normal.low_rank: got ['x']; "
            "expected a list of whole numbers, or a list of lists of whole numbers; "
            "fix: change this value",
            id="two members fit equally badly",
        ),
        pytest.param(
            "kernels: 3\npathways:\n- feature_maps: [3]\n  low_rank: [x]",
            "[config-value] train.yml:7 pathways[0].low_rank: got ['x']; "
            "expected a list of whole numbers, or a list of lists of whole numbers; "
            "fix: change this value",
            id="two members fit equally badly inside a list",
        ),
        pytest.param(
            "low_rank: [2, 1]",
            "[low-rank-first] train.yml:4 normal.low_rank: got layer {1}; "
            "expected layers from 2 on; fix: remove layer 1",
            id="a refusal of a validator, with braces",
        ),
        pytest.param(
            "spacing: [1.5]",
            "[config-value] train.yml:4 normal.spacing: got [1.5]; expected a list of 2 numbers; "
            "fix: add entries",
            id="a pair that is too short",
        ),
        pytest.param(
            "spacing: []",
            "[config-value] train.yml:4 normal.spacing: got []; expected a list of 2 numbers; "
            "fix: add entries",
            id="a pair without entries",
        ),
        pytest.param(
            "spacing: [1, 2, 3]",
            "[config-value] train.yml:4 normal.spacing: got [1, 2, 3]; "
            "expected a list of 2 numbers; fix: remove entries",
            id="a pair that is too long",
        ),
    ],
)
def test_a_union_gives_one_problem(line, message):
    assert refusals(f"epochs: 5\nnormal:\n  feature_maps: [3]\n  {line}\n") == message


def test_of_two_blocks_the_one_that_fits_better_is_explained():
    assert refusals(f"{GOOD}shape:\n  feature_maps: [0]\n  padding: zero\n") == (
        "[config-value] train.yml:4 shape.feature_maps[0]: got 0; "
        "expected a whole number of at least 1; fix: write a larger number"
    )


def test_a_refusal_inside_a_union_is_the_one_that_is_told():
    def never(value: int) -> int:
        raise invalid("never", got=f"{value}", expected="another", fix="take another")

    class Model(Strict):
        size: Literal["small"] | Annotated[int, AfterValidator(never)]

    with pytest.raises(DeepsegError) as refused:
        validate(Model, Document(Path("a.yml"), {"size": 7}, {("size",): "a.yml:1 size"}))
    assert str(refused.value) == (
        "[never] a.yml:1 size: got 7; expected another; fix: take another"
    )


def test_entries_that_are_equal_can_make_a_set_too_small():
    class Model(Strict):
        axes: Annotated[frozenset[int], Field(min_length=2)]

    with pytest.raises(DeepsegError) as refused:
        validate(Model, Document(Path("a.yml"), {"axes": [1, 1]}, {("axes",): "a.yml:1 axes"}))
    assert str(refused.value) == (
        "[config-value] a.yml:1 axes: got [1, 1]; expected a list of at least 2 whole numbers; "
        "fix: add entries"
    )


def test_a_mapping_or_a_list_of_paths_gives_one_problem():
    assert refusals(f"{GOOD}lists: 3\n") == (
        "[config-value] train.yml:3 lists: got 3; "
        "expected a block that maps texts to paths, or a list of paths; fix: change this value"
    )


@pytest.mark.parametrize("content", ["", "# epochs: 5\n", "{}\n"])
def test_an_empty_file_is_refused_with_the_keys_it_needs(content):
    assert refusals(content) == (
        "[config-empty] train.yml: got a file without keys; expected the keys epochs, normal; "
        "fix: begin with the key 'epochs', or give the path of another file"
    )


def test_an_empty_file_is_refused_even_if_no_key_is_needed():
    class Optional(Strict):
        seed: int = 0

    with pytest.raises(DeepsegError) as refused:
        validate(Optional, Document(Path("a.yml"), {}, {}))
    assert str(refused.value) == (
        "[config-empty] a.yml: got a file without keys; expected at least one key; "
        "fix: begin with the key 'seed', or give the path of another file"
    )


def test_missing_keys_of_the_top_name_the_file():
    assert refusals("name: a\n") == (
        "[config-missing-key] train.yml: got no key 'epochs'; "
        "expected 'epochs' with a whole number of at least 1; fix: add 'epochs' to the file\n"
        "[config-missing-key] train.yml: got no key 'normal'; "
        f"expected 'normal' with a block with the keys {PATHWAY}; fix: add 'normal' to the file"
    )


def test_the_lines_of_a_cfg_file_are_named_too():
    Path("train.cfg").write_text("epochs = 5\nnormal = {'feature_maps': [3, 0]}\n")
    with pytest.raises(DeepsegError) as refused:
        validate(Train, read_cfg(Path("train.cfg")))
    assert str(refused.value) == (
        "[config-value] train.cfg:2 normal: got 0; expected a whole number of at least 1; "
        "fix: write a larger number"
    )


def test_problems_can_be_had_without_raising():
    document = Document(Path("a.yml"), {"epochs": 0, "normal": 3}, {("normal",): "a.yml:9 normal"})
    with pytest.raises(ValidationError) as error:
        Train.model_validate(document.values)
    places = [problem.where for problem in problems_of(error.value, document, Train)]
    assert places == ["a.yml", "a.yml:9 normal"]


class TestPaths:
    def read(self, value: str, file: str = "sub/train.yml") -> Path | None:
        Path("sub").mkdir(exist_ok=True)
        Path(file).write_text(f"{GOOD}optimiser: {{name: sgd}}\nmodel: {value}\n")
        return validate(Train, read_yaml(Path(file))).model

    def test_a_relative_path_counts_from_the_folder_of_the_file(self, folder):
        assert self.read("a.save") == folder / "sub/a.save"

    def test_the_way_up_is_resolved(self, folder):
        assert self.read("../data/./a.save") == folder / "data/a.save"

    def test_an_absolute_path_stays(self):
        assert self.read("/data/a.save") == Path("/data/a.save")

    def test_a_tilde_is_the_home_folder(self, monkeypatch):
        monkeypatch.setenv("HOME", "/home/somebody")
        assert self.read("~/a.save") == Path("/home/somebody/a.save")

    def test_a_symbolic_link_keeps_its_name(self, folder):
        (folder / "a.save").symlink_to("0123456789abcdef")
        assert self.read("../a.save") == folder / "a.save"

    def test_a_resolved_path_is_not_resolved_again(self, folder):
        once = self.read("a.save")
        assert self.read(str(once), "train.yml") == folder / "sub/a.save"

    def test_without_a_file_a_path_counts_from_the_working_folder(self, folder):
        model = Train.model_validate(
            {
                "epochs": 5,
                "normal": {"feature_maps": [3]},
                "optimiser": {"name": "sgd"},
                "model": Path("a.save"),
            }
        )
        assert model.model == folder / "a.save"
