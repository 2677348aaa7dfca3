"""The pages: links lead somewhere, and settings, commands and calls in them are ones that work."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest
from pydantic import create_model

import deepseg
from deepseg.cli.arguments import parsed
from deepseg.config.blocks.augmentation import Augmentation
from deepseg.config.blocks.checkpoints import Checkpoints, EarlyStopping, StopAt
from deepseg.config.blocks.freezing import FreezeBlocks
from deepseg.config.blocks.losses import Loss
from deepseg.config.blocks.optimisers import Optimiser, Steps
from deepseg.config.blocks.sampling import Sampling
from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import CasesConfig, Preparation
from deepseg.config.files.yaml_file import read_yaml
from deepseg.config.model import ModelConfig
from deepseg.config.settings import Precision, Settings
from deepseg.config.testing import ComponentRule, Inference, TestConfig
from deepseg.config.training import TrainConfig
from deepseg.config.validation.validate import validate
from deepseg.model.graph.operators.table import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "documentation").glob("*.md"))]

LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)[ ]*(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\s*(?:python run\.py|deepseg) (-.*)$", re.MULTILINE)

MODELS = {
    "model": ModelConfig,
    "train": TrainConfig,
    "test": TestConfig,
    "part": create_model(  # some keys of a file, as pages explain them
        "Part",
        __base__=Settings,
        cases=(CasesConfig | None, None),
        preparation=(Preparation | None, None),
        sampling=(Sampling | None, None),
        augmentation=(Augmentation | None, None),
        freeze=(FreezeBlocks | None, None),
        optimiser=(Optimiser | None, None),
        loss=(Loss | None, None),
        precision=(Precision, "float32"),
        steps=(Steps, Steps()),
        workers=(int, 1),
        early_stopping=(EarlyStopping | None, None),
        stop_at=(StopAt | None, None),
        checkpoints=(Checkpoints | None, None),
        inference=(Inference | None, None),
        postprocess=(dict[str, ComponentRule] | None, None),
        save=(SavedResults | None, None),
    ),
}


def text(page: Path) -> str:
    return page.read_text("utf-8")


def anchors(page: Path) -> set[str]:
    """The anchors that readers of markdown make of the headings."""
    headings = re.findall(r"^#+ (.*)$", text(page), flags=re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in kept}


def links() -> list[tuple[Path, str]]:
    found = [(page, target) for page in PAGES for target in LINK.findall(text(page))]
    return [(page, target) for page, target in found if "://" not in target]


def blocks(language: str) -> list[tuple[str, str, str]]:
    """Page and line, word behind the language, and content of every block."""
    return [
        (f"{page.name}:{text(page)[: match.start()].count(chr(10)) + 1}", match[2], match[3])
        for page in PAGES
        for match in BLOCK.finditer(text(page))
        if match[1] == language
    ]


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(*one, id=f"{one[0].name} {one[1]}") for one in links()]
)
def test_a_link_leads_to_a_file_and_heading_that_are_there(page, target):
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    assert file.exists()
    assert file.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(file)


@pytest.mark.parametrize(
    ("kind", "content"),
    [pytest.param(kind, content, id=place) for place, kind, content in blocks("yaml") if kind],
)
def test_settings_on_a_page_are_accepted(kind, content, tmp_path):
    file = tmp_path / "block.yaml"
    file.write_text(content, encoding="utf-8")
    validate(MODELS[kind], read_yaml(file))


def test_every_kind_of_settings_is_shown():
    assert {kind for _, kind, _ in blocks("yaml")} >= set(MODELS)


def test_settings_on_a_page_say_what_they_are():
    generated = "configuration.md"  # its one block is a form, not a file
    nameless = [place for place, kind, _ in blocks("yaml") if not kind]
    assert [place for place in nameless if not place.startswith(generated)] == []


@pytest.mark.parametrize(
    "line", sorted({line for page in PAGES for line in COMMAND.findall(text(page))})
)
def test_a_command_on_a_page_is_understood(line):
    parsed(shlex.split(line, comments=True))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(content, id=place)
        for place, kind, content in blocks("python")
        if kind != "standalone"  # a program that needs no deepseg
    ],
)
def test_python_on_a_page_uses_names_that_there_are(content):
    nodes = ast.walk(ast.parse(content))
    used = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)}
    names = {name.removeprefix("deepseg.") for name in used if re.fullmatch(r"deepseg\.\w+", name)}
    assert names != set()
    assert names - set(deepseg.__all__) == set()


def test_the_change_log_begins_with_this_version():
    first = re.search(r"^## (\S+)", text(ROOT / "documentation/changelog.md"), flags=re.MULTILINE)
    assert first is not None
    assert first[1] == deepseg.__version__


def test_the_page_on_transfer_names_every_operator():
    page = (ROOT / "documentation" / "transfer.md").read_text("utf-8")
    section = page.partition("**Operators.**")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(OPERATORS)
