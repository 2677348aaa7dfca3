"""The pages: links lead somewhere, and settings, commands and calls in them are ones that work.

Every block has a language, which says what is done with it: settings are validated, commands parsed
by the programs that they call, outputs hold no commands. Python is run in
`tests/commands/test_pages.py`.
"""

from __future__ import annotations

import ast
import configparser
import re
import runpy
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import create_model

import deepseg
from deepseg.cli.arguments import parsed
from deepseg.cli.bids import argument_parser
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
from deepseg.exports.on_device.command_line import parser
from deepseg.model.graph.operators.table import OPERATORS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "documentation").glob("**/*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "examples").glob("*/unet/README.md")),
]

LINK = re.compile(r"(?<!`)\[[^\]]*\]\(([^)\s]+)\)")
BLOCK = re.compile(r"^```(\w+)[ ]*(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = {"bash", "json", "python", "text", "yaml"}
SHELL = {"cd", "source", "ssh", "export", "sbatch", "docker", "snakemake", "nextflow", "apptainer"}

FOREIGN = {"kubernetes"}  # read in tests/commands/test_clusters.py
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
    remaining = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in remaining}


def links() -> list[tuple[Path, str]]:
    result = [(page, target) for page in PAGES for target in LINK.findall(text(page))]
    return [(page, target) for page, target in result if "://" not in target]


def place(page: Path, character: int) -> str:
    """File and line of a character."""
    line = text(page)[:character].count("\n") + 1
    return f"{page.relative_to(ROOT)}:{line}"


def blocks(language: str) -> list[tuple[str, str, str]]:
    """Page and line, word behind the language, and content of every block."""
    return [
        (
            f"{page.relative_to(ROOT)}:{text(page)[: match.start()].count(chr(10)) + 1}",
            match[2],
            match[3],
        )
        for page in PAGES
        for match in BLOCK.finditer(text(page))
        if match[1] == language
    ]


@pytest.mark.parametrize(
    ("page", "target"), [pytest.param(*item, id=f"{item[0].name} {item[1]}") for item in links()]
)
def test_a_link_leads_to_a_file_and_heading_that_are_there(page, target):
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    assert file.exists()
    assert file.is_relative_to(ROOT)
    assert not anchor or anchor in anchors(file)


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        pytest.param(kind, content, id=place)
        for place, kind, content in blocks("yaml")
        if kind and kind not in FOREIGN
    ],
)
def test_settings_on_a_page_are_accepted(kind, content, tmp_path):
    file = tmp_path / "block.yaml"
    file.write_text(content, encoding="utf-8")
    validate(MODELS[kind], read_yaml(file))


def test_every_kind_of_settings_is_shown():
    assert {kind for _, kind, _ in blocks("yaml")} >= set(MODELS)


def test_settings_on_a_page_say_what_they_are():
    generated = "documentation/configuration.md"  # its one block is a form, not a file
    nameless = [place for place, kind, _ in blocks("yaml") if not kind]
    assert [place for place in nameless if not place.startswith(generated)] == []


def test_every_block_says_what_it_is():
    first_words = [
        (page, (line.strip("` ").split() or [""])[0])
        for page in PAGES
        for line in re.findall(r"^ *```.*$", text(page), re.MULTILINE)[
            ::2
        ]  # the other half ends it
    ]
    assert [(page, word) for page, word in first_words if word not in LANGUAGES] == []


def test_no_block_is_marked_by_its_indent():
    """Such a block has no language, and so nothing would look at it."""
    marked = {
        str(page.relative_to(ROOT)): re.findall(
            r"(?<=\n\n)    \S.*", re.sub(r"```.*?```", "", text(page), flags=re.S)
        )
        for page in PAGES
        if page.name != "changelog.md"  # its second paragraphs belong to items
    }
    assert {page: lines for page, lines in marked.items() if lines} == {}


def command_lines(block: str) -> Iterator[list[str]]:
    """Words of every command of a block of bash, without comments."""
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            yield words


def check_command(words: list[str]) -> None:
    """Fail unless the program that is called understands these words."""
    match words:
        case ["srun" | "torchrun", *_] | ["python", "run.py", *_]:
            program = next(word for word in words if word in ("run.py", "deepseg"))
            parsed(words[words.index(program) + 1 :])
        case ["sbatch", *_, "--wrap", line]:
            check_command(shlex.split(line.replace("$SLURM_ARRAY_TASK_ID", "1")))
        case ["python", "-m", program, *options] | [program, *options] if program in PROGRAMS:
            PROGRAMS[program](options)
        case ["python", "device_train.py", *options]:
            parser(Path()).parse_args(options)
        case ["make", target]:
            assert re.search(rf"^{target}:", text(ROOT / "Makefile"), re.MULTILINE)
        case ["pip" | ".venv/bin/pip", "install", *options]:
            check_extras(options[-1])
        case ["python3" | "python" | ".venv/bin/python", "-m", "venv" | "pytest", *options]:
            assert all((ROOT / word).exists() for word in options if word.startswith("tests/"))
        case ["OMP_NUM_THREADS=1" | "exec", *rest]:
            check_command(rest)
        case ["python", script, *_] | [script] if script.endswith((".py", ".sh")):
            assert any((folder / script).exists() for folder in (ROOT, *EXAMPLES))
        case _:
            assert words[0] in SHELL, f"what is {words[0]}?"


PROGRAMS = {"deepseg": parsed, "deepseg-bids": argument_parser().parse_args}
EXAMPLES = sorted(file.parent for file in (ROOT / "examples").glob("**/README.md"))


def check_extras(package: str) -> None:
    """Fail unless the extras in brackets, if any, are those of this distribution."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    name, _, extras = package.rstrip("]").partition("[")
    if name in (".", "deepseg-pathways") and extras:
        assert set(extras.split(",")) <= set(setup["options.extras_require"])


@pytest.mark.parametrize(
    "block", [pytest.param(block, id=place) for place, _, block in blocks("bash")]
)
def test_commands_on_a_page_are_understood(block):
    shell = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert shell.stderr == ""
    for words in command_lines(block):
        check_command(words)


@pytest.mark.parametrize(
    "line",
    ["python run.py -trian t.yaml", "make tea", "pip install '.[plots]'", "curl x", "./walk.sh"],
)
def test_a_command_that_nothing_understands_is_found(line):
    with pytest.raises((AssertionError, deepseg.DeepsegError)):
        check_command(shlex.split(line))


def test_outputs_on_pages_hold_no_commands():
    """A command in a block of text would be seen by nobody."""
    for place, _, block in blocks("text"):
        assert not re.search(r"^\s*(python|deepseg|make|pip) ", block, re.MULTILINE), place


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


def test_the_page_on_networks_names_every_operator():
    page = text(ROOT / "documentation" / "networks.md")
    section = page.partition("**Operators.**")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", section)) == set(OPERATORS)


def test_the_reference_of_functions_has_all_of_them():
    page = text(ROOT / "documentation" / "api.md")
    names = re.findall(r"heading: deepseg\.(\w+)}", page)
    assert sorted(names) == sorted(name for name in deepseg.__all__ if name != "__version__")


def test_every_page_is_in_the_navigation_of_the_site():
    navigation = text(ROOT / "mkdocs.yml").partition("\nnav:")[2]
    pages = {page.relative_to(ROOT / "documentation").as_posix() for page in PAGES_OF_THE_SITE}
    assert pages - set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE)) == set()


PAGES_OF_THE_SITE = [page for page in PAGES if page.is_relative_to(ROOT / "documentation")]


def site_pages() -> dict:
    return runpy.run_path(str(ROOT / "documentation" / "site_pages.py"))


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        pytest.param("index.md", "documentation/data.md#scores", "data.md#scores", id="README"),
        pytest.param("data.md", "../examples/x/README.md", "examples/x/README.md", id="example"),
        pytest.param(
            "examples/x/README.md", "../../documentation/data.md", "../../data.md", id="back"
        ),
        pytest.param("data.md", "../examples/x", "examples/x/README.md", id="folder"),
        pytest.param("data.md", "https://a.b", "https://a.b", id="elsewhere"),
    ],
)  # fmt: skip
def test_links_lead_to_the_same_place_on_the_site(page, link, expected):
    sources = ["index.md", "data.md", "examples/x/README.md"]
    assert site_pages()["for_site"](f"[a]({link})", page, sources) == f"[a]({expected})"


def test_a_link_to_what_the_site_does_not_show_is_text():
    assert site_pages()["for_site"]("See [a](../setup.cfg).", "data.md", ["data.md"]) == "See a."


def test_a_link_called_like_its_file_is_called_like_its_page_on_the_site():
    link = site_pages()["for_site"]("[data.md](data.md#scores)", "plan.md", ["data.md"])
    assert link == "[Data](data.md#scores)"


def test_a_fence_on_the_site_has_its_language_only():
    assert site_pages()["for_site"]("```yaml part\nx: 1\n```", "a.md", []) == "```yaml\nx: 1\n```"
