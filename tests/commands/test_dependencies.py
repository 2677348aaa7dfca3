"""Packages that are older than deepseg needs, or broken, are named before anything begins."""

import configparser
import importlib.metadata
import re
from pathlib import Path

from deepseg.cli import dependencies
from deepseg.cli.dependencies import OLDEST

CHECKOUT = Path(__file__).parents[2]


def test_the_oldest_versions_are_those_of_setup_cfg():
    setup = configparser.ConfigParser()
    setup.read(CHECKOUT / "setup.cfg", encoding="utf-8")
    lines = setup["options"]["install_requires"].split()
    assert dict(line.split(">=") for line in lines) == OLDEST


def test_all_old_packages_are_named_at_once(refused, monkeypatch):
    old = {"torch": "1.13.1+cu117", "numpy": "1.20", "nibabel": "3.2.2"}
    version = importlib.metadata.version
    monkeypatch.setattr(dependencies, "version", lambda name: old.get(name) or version(name))
    assert refused("-show", "model.yaml") == [
        f"[dependency-too-old] model.yaml: got {got}; expected {oldest} or newer; fix: pip install "
        f"--upgrade '{oldest.replace(' ', '>=')}'"
        for got, oldest in [
            ("torch 1.13.1+cu117", "torch 2.6"),
            ("numpy 1.20", "numpy 1.26"),
            ("nibabel 3.2.2", "nibabel 5.2"),
        ]
    ]


def test_packages_without_a_record_are_not_judged(command, monkeypatch):
    def no_record(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(dependencies, "version", no_record)
    result = command("-show", "model.yaml")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_package_that_lacks_what_is_imported_is_no_bug(run, place):
    (place / "lacking").mkdir()
    (place / "lacking/pydantic.py").write_text("__version__ = '1.10'\n")
    result = run("-show", "model.yaml", env={"PYTHONPATH": f"lacking:{CHECKOUT}"})
    (error,) = result.errors
    assert result.returncode == 2
    assert re.fullmatch(
        r"ERROR \[dependency-broken\] model.yaml: got cannot import name .* from 'pydantic' "
        r"\(.*\); expected every package that deepseg needs, as setup.cfg lists them; fix: install "
        r"deepseg again \(pip install --upgrade deepseg-pathways, or make test\)",
        error,
    )
