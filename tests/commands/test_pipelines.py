"""The examples of pipelines: what they run is run here, on a BIDS tree of one participant.

Snakemake, Nextflow and Nipype are no part of the tests' packages: their files are read, and their
commands run in this process.
"""

import configparser
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from deepseg.cli.bids import main as bids_app

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "examples/pipelines"
RESULT = "sub-01/anat/sub-01_desc-deepseg_dseg.nii.gz"


@pytest.fixture
def study(place):
    for name in ("T1", "FLAIR"):
        target = place / f"study/sub-01/anat/sub-01_{name.replace('T1', 'T1w')}.nii.gz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / f"data/d/{name}.nii.gz", target)
    return place / "study"


def app_words(line):
    """The words of a line of shell that sets a variable and calls the app."""
    variable, program, *words = shlex.split(line.replace("\\\n", " "))
    assert (variable, program) == ("OMP_NUM_THREADS=2", "deepseg-bids")
    return words


def test_the_rule_of_snakemake_makes_the_output_that_it_names(model, place, command, study):
    text = (PIPELINES / "Snakefile").read_text()
    shell = "".join(re.findall(r'"(.*)"', text[text.index("    shell:") :]))
    output = re.search(r'output:\n\s+OUT \+ "(.*)",', text)[1]
    line = shell.format(
        threads=2,
        params=SimpleNamespace(study="study", out="derivatives/deepseg"),
        input=SimpleNamespace(model=model),
        wildcards=SimpleNamespace(participant="01"),
    )
    result = command(*app_words(line), program=bids_app)
    assert (result.returncode, result.errors) == (0, [])
    assert output.format(participant="01") == f"/{RESULT}"
    assert (place / "derivatives/deepseg" / RESULT).exists()
    (place / "derivatives/deepseg" / RESULT).unlink()  # as snakemake does before it runs a rule
    assert command(*app_words(line), program=bids_app).returncode == 0
    assert (place / "derivatives/deepseg" / RESULT).exists()


def test_the_process_of_nextflow_makes_the_output_that_it_names(model, place, command, study):
    text = (PIPELINES / "segment.nf").read_text()
    script = re.search(r'script:\n\s+"""\n(.*?)"""', text, re.DOTALL)[1]
    values = {"participant": "sub-01", "study": "study", "model": model, "task.cpus": "2"}
    line = re.sub(r"\$\{([\w.]+)\}", lambda match: values[match[1]], script)
    result = command(*app_words(line.strip()), program=bids_app)
    assert (result.returncode, result.errors) == (0, [])
    pattern = re.search(r'output:\n\s+path "(.*)"', text)[1].replace("${participant}", "sub-01")
    assert place / "deepseg" / RESULT in set(place.path.glob(f"{pattern}/*"))


class SimpleInterface:
    """The part of Nipype's class of this name that an interface meets."""

    def __init__(self, **inputs):
        self.inputs = SimpleNamespace(**inputs)
        self._results = {}


@pytest.fixture
def nipype(monkeypatch):
    """A package that has the names which the interface imports."""

    def trait(*_args, **_settings):
        return None

    base = ModuleType("nipype.interfaces.base")
    base.SimpleInterface = SimpleInterface
    base.BaseInterfaceInputSpec = base.TraitedSpec = object
    base.File, base.traits = trait, SimpleNamespace(Str=trait, Dict=trait)
    for name in ("nipype", "nipype.interfaces"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "nipype.interfaces.base", base)


def test_the_interface_of_nipype_finds_its_outputs(model, place, begin, nipype, monkeypatch):
    def run(command, *, check):
        assert (command[0], check) == ("deepseg", True)
        assert begin(*command[1:]) == 0

    monkeypatch.setattr(subprocess, "run", run)
    interface = runpy.run_path(str(PIPELINES / "nipype_interface.py"))["Segment"](
        model=model,
        images={"FLAIR": "data/d/FLAIR.nii.gz", "T1": "data/d/T1.nii.gz"},
        roi="data/d/roi.nii.gz",
        device="cpu",
    )
    interface._run_interface(SimpleNamespace(cwd=str(place.path)))
    assert {name: Path(file).name for name, file in interface._results.items()} == {
        "segmentation": "FLAIR_Segm.nii.gz",
        "label_names": "dseg.tsv",
    }
    assert all(Path(file).exists() for file in interface._results.values())


def docker_lines():
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line and line[0] != "#"]


def test_the_image_holds_what_it_is_built_from_and_runs_as_nobody_special():
    lines = docker_lines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        word
        for name, rest in lines
        if name == "COPY" and not rest.startswith("--from")
        for word in rest.split()[:-1]
    ]
    assert [word for word in copied if not (ROOT / word).exists()] == []
    assert {f"!{word}" for word in copied} == {line for line in ignored if line[0] == "!"}
    assert [rest for name, rest in lines if name == "USER"] == ["1000"]


def test_the_image_starts_a_program_that_the_distribution_installs():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (entry,) = [rest for name, rest in docker_lines() if name == "ENTRYPOINT"]
    programs = re.findall(r"^([\w-]+) =", setup["options.entry_points"]["console_scripts"], re.M)
    assert re.findall(r'"(.*)"', entry) == programs[:1]
    assert programs == ["deepseg", "deepseg-bids"]
