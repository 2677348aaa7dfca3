"""The models that ship with deepseg: their names and their files."""

import configparser
from pathlib import Path

import pytest

import deepseg.builtin
from deepseg.builtin import FOLDER, builtin_file, builtin_names
from deepseg.config.user_paths import user_path
from deepseg.errors import DeepsegError
from deepseg.model.checkpoint import model_in, read_checkpoint

MEGABYTE = 1_000_000


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The folder of a package with a model ``tiny``, of which only the name counts here."""
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "tiny.save").touch()
    monkeypatch.setattr(deepseg.builtin, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return folder


def message(call, *arguments):
    with pytest.raises(DeepsegError) as caught:
        call(*arguments)
    return str(caught.value)


def test_a_name_stands_for_a_file_of_the_package(package):
    assert builtin_names() == ["tiny"]
    file, name = package / "tiny.save", "builtin:tiny"
    assert builtin_file(Path(name)) == user_path(name) == model_in(Path(name)) == file
    assert builtin_file(Path("runs/builtin:tiny")) == Path("runs/builtin:tiny")


def test_an_unknown_name_is_told_those_that_exist(package):
    (package / "brain.save").touch()
    line = (
        "[builtin-unknown] got builtin:tiney; expected one of builtin:brain, builtin:tiny; fix: "
        "correct the name, or give the path of a .save; did you mean 'tiny'?"
    )
    assert message(builtin_file, Path("builtin:tiney")) == line
    assert message(read_checkpoint, "builtin:tiney") == line
    for file in package.iterdir():
        file.unlink()
    assert message(builtin_file, Path("builtin:tiny")) == (
        "[builtin-unknown] got builtin:tiny; expected the path of a .save: no model ships with "
        "deepseg; fix: correct the name, or give the path of a .save"
    )


def test_a_file_of_that_name_is_the_file(package):
    Path("builtin:tiny").touch()
    assert builtin_file(Path("builtin:tiny")) == Path("builtin:tiny")


def test_the_package_contains_all_models_and_they_are_small():
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[1] / "setup.cfg")
    patterns = settings["options.package_data"]["deepseg.builtin"].split(", ")
    packed = {file for pattern in patterns for file in FOLDER.glob(pattern)}
    assert packed == set(FOLDER.iterdir()) - set(FOLDER.glob("__*"))
    assert sum(file.stat().st_size for file in packed) < 4 * MEGABYTE


def test_the_models_have_learnt_and_tell_nothing_of_the_machine_that_made_them():
    for name in builtin_names():
        model = read_checkpoint(f"builtin:{name}")
        assert model.config.channels == ("image",)
        assert not model.is_random
        assert model.training is None
        assert not model.config.output.is_absolute()
        assert model.preparation.roi == "nonzero"
