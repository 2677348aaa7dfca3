"""Files become configs by their ending, and never run."""

from pathlib import Path

import pytest

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        file = Path(name)
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def complaint(model, file):
    with pytest.raises(DeepsegError) as refusal:
        load(model, file)
    return str(refusal.value)


@pytest.mark.parametrize("name", ["a.yaml", "a.yml", "a.YAML"])
def test_a_yaml_file_is_read_in_our_words_and_without_warnings(write, name):
    result = load(TestConfig, write(name, "output: out\ncases: {table: t.csv}"))
    assert result.config.cases.table.name == "t.csv"
    assert result.warnings == ()


def test_a_cfg_file_is_read_in_deepmedics_words(write):
    file = write("a.cfg", "folderForOutput = 'out'\ndataframe = 't.csv'\nnorm_verbosity_lvl = 1")
    result = load(TestConfig, file)
    assert result.config.cases.table.name == "t.csv"
    assert result.warnings == (
        "a.cfg: keys that mean nothing here and are ignored: "
        "norm_verbosity_lvl (the log has one level of detail)",
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("deep/a.yaml", "output: ../out\ncases: {table: t.csv}"),
        ("deep/a.cfg", "folderForOutput = '../out'\ndataframe = 't.csv'"),
    ],
)
def test_relative_paths_count_from_the_folder_of_the_file(write, tmp_path, name, text):
    config = load(TestConfig, write(name, text)).config
    assert config.output == tmp_path / "out"
    assert config.cases.table == tmp_path / "deep" / "t.csv"


def test_the_class_says_which_keys_of_deepmedic_are_known(write):
    file = write("a.cfg", "numberOfEpochs = 3\ndataframe = 't.csv'")
    assert complaint(TrainConfig, file).startswith(
        "[config-unknown-key] a.cfg:2 dataframe: got the unknown key 'dataframe'; "
        "expected a key of DeepMedic's train files; fix: move it to the test file"
    )


@pytest.mark.parametrize(
    ("name", "got"),
    [("a.save", "the ending '.save'"), ("a", "a file name without an ending")],
)
def test_another_ending_is_refused_with_the_known_ones(write, name, got):
    assert complaint(ModelConfig, write(name, "")) == (
        f"[config-file-type] {name}: got {got}; expected .yaml or .yml, or .cfg for a file of "
        "DeepMedic; fix: give the path of a model file, or rename it"
    )


def test_a_program_in_a_cfg_file_is_not_run(write):
    file = write("a.cfg", 'import os; os.system("touch PWNED")')
    expected = (
        "expected 'key = value' with plain values; "
        "fix: write the value itself; config files are read, never run"
    )
    assert complaint(ModelConfig, file).splitlines() == [
        f"[config-not-data] a.cfg:1: got 'import os'; {expected}",
        f"[config-not-data] a.cfg:1: got 'os.system(\"touch PWNED\")'; {expected}",
    ]
    assert not Path("PWNED").exists()


def test_a_program_as_a_value_is_not_run(write):
    file = write("a.cfg", "modelName = __import__('os').system('touch PWNED')")
    assert complaint(ModelConfig, file) == (
        "[config-not-data] a.cfg:1: got \"__import__('os').system('touch PWNED')\"; "
        "expected 'key = value' with plain values; "
        "fix: write the value itself; config files are read, never run"
    )
    assert not Path("PWNED").exists()


def test_a_file_of_another_kind_is_told_by_its_keys(tmp_path):
    file = tmp_path / "test.yaml"
    file.write_text("name: results\noutput: out\ncases: {table: t.csv}\n")
    with pytest.raises(DeepsegError) as refusal:
        load(TrainConfig, file)
    assert str(refusal.value) == (
        f"[config-kind] {file}: got a test file; expected a train file; fix: give a train file, or "
        "use -test for this one"
    )
