"""The command line: what is understood, and what is said where it is not."""

import re
import sys
from pathlib import Path
from typing import get_args

import pytest

from deepseg.cli.arguments import PRECISIONS
from deepseg.config.settings import Precision

MODULE = ("-m", "deepseg")

USAGE = """\
usage: {program} COMMAND [options]

examples:
  {program} -plan SCANS -minutes 60 -out DIR  settings files for a folder of scans
  {program} -newModel model.yaml              build a model and save it
  {program} -train train.yaml -model M.save   train it; the same command continues
  {program} -test test.yaml -model M.save     segment cases, score them

{program} -help lists all options
"""


def test_no_arguments_give_a_short_usage_with_four_examples(run):
    result = run()
    assert (result.returncode, result.stdout, result.stderr) == (
        2,
        "",
        USAGE.format(program="run.py"),
    )
    assert len(USAGE.splitlines()) <= 15


def test_the_installed_program_goes_by_its_name(command):
    result = command()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == USAGE.format(program="deepseg")
    assert "run.py" not in command("-help").stdout


def test_the_package_starts_as_a_module_too(run):
    result = run("-version", program=MODULE, cwd=Path(__file__).parents[2])
    assert result.returncode == 0
    assert re.fullmatch(r"deepseg \d+\.\d+\.\d+\n", result.stdout)
    assert result.stderr == ""


def test_the_module_and_the_entry_point_have_one_name(run):
    result = run("-train", program=MODULE, cwd=Path(__file__).parents[2])
    assert result.returncode == 2
    assert result.stderr == (
        "ERROR [command-line] got argument -train: expected one argument; expected options as in "
        "deepseg -help; fix: look at the examples of deepseg -help\n"
    )


def test_help_names_nothing_that_is_not_installed(command):
    help_text = command("-help").stdout
    assert "configs" not in help_text
    assert "documentation" not in help_text


def test_help_names_every_command_on_stdout(command):
    result = command("-help")
    assert (result.returncode, result.stderr) == (0, "")
    for name in ("-newModel", "-train", "-test", "-check", "-show", "-compare", "-plan", "-demo"):
        assert f"\n  {name}" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        pytest.param(
            ["-trian", "train.yaml"],
            [
                "[command-line] got unknown option -trian; expected options as in deepseg -help; "
                "fix: correct the option; did you mean '-train'?"
            ],
            id="a misspelt command",
        ),
        pytest.param(
            ["-train", "train.yaml", "-modle", "M.save", "-quite"],
            [
                "[command-line] got unknown option -modle; expected options as in deepseg -help; "
                "fix: correct the option; did you mean '-model'?",
                "[command-line] got unknown option -quite; expected options as in deepseg -help; "
                "fix: correct the option; did you mean '-quiet'?",
            ],
            id="two misspelt options at once",
        ),
        pytest.param(
            ["-train"],
            [
                "[command-line] got argument -train: expected one argument; expected options as "
                "in deepseg -help; fix: look at the examples of deepseg -help"
            ],
            id="a command without its file",
        ),
        pytest.param(
            ["-train", ""],
            ["[command-line] got an empty name after -train; expected a file; fix: name it"],
            id="a file without a name",
        ),
        pytest.param(
            ["train.yaml"],
            [
                "[command-line] got unrecognized arguments: train.yaml; expected options as in "
                "deepseg -help; fix: look at the examples of deepseg -help"
            ],
            id="a file without a command",
        ),
        pytest.param(
            ["-quiet"],
            [
                "[command-line] got no command; expected one of -newModel, -train, -test, "
                "-segment, -check, -show, -export, -convert, -compare, -plan, -prepare, -demo; "
                "fix: give exactly one command"
            ],
            id="options only",
        ),
        pytest.param(
            ["-newModel", "model.yaml", "-train", "train.yaml"],
            [
                "[command-line] got -newModel and -train; expected one of -newModel, -train, "
                "-test, -segment, -check, -show, -export, -convert, -compare, -plan, -prepare, "
                "-demo; fix: give exactly one command"
            ],
            id="two commands",
        ),
        pytest.param(
            ["-train", "train.yaml", "--train=test.yaml"],
            [
                "[command-line] got -train 2 times; expected every option once; "
                "fix: remove the others"
            ],
            id="one command twice",
        ),
        pytest.param(
            ["-test", "test.yaml", "-load", "M.save", "-load", "N.save"],
            [
                "[command-line] got -load 2 times; expected every option once; "
                "fix: remove the others"
            ],
            id="an option twice",
        ),
        pytest.param(
            ["-test", "test.yaml", "-out", "elsewhere", "-seed", "3"],
            [
                "[command-line] got -out with -test; expected -out with -newModel, -segment, "
                "-show, -export, -convert, -compare, -plan, -demo; fix: remove -out",
                "[command-line] got -seed with -test; expected -seed with -newModel, -train; "
                "fix: remove -seed",
            ],
            id="options of another command",
        ),
        pytest.param(
            ["-newModel", "model.yaml", "-seed", "-1"],
            [
                "[command-line] got -seed -1; expected a whole number of up to 18 digits; "
                "fix: choose another number"
            ],
            id="a negative seed",
        ),
        pytest.param(
            ["-newModel", "model.yaml", "-seed", "7" * 5000],
            [
                f"[command-line] got -seed {'7' * 5000}; expected a whole number of up to 18 "
                "digits; fix: choose another number"
            ],
            id="an endless seed",
        ),
        pytest.param(
            ["-check", "train.yaml", "-seeds", "1", "2", "-reach", "0.5"],
            [
                "[command-line] got -seeds with -check; expected -seeds with -compare; "
                "fix: remove -seeds",
                "[command-line] got -reach with -check; expected -reach with -compare; "
                "fix: remove -reach",
            ],
            id="options of a comparison",
        ),
        pytest.param(
            ["-compare", "runs/a", "runs/b", "-reach", "70"],
            [
                "[command-line] got -reach 70; expected a score above 0 and up to 1; "
                "fix: choose another number"
            ],
            id="a score in per cent",
        ),
        pytest.param(
            ["-compare", "runs/a", ""],
            ["[command-line] got an empty name after -compare; expected a file; fix: name it"],
            id="a session without a name",
        ),
        pytest.param(
            ["-compare", "runs/a", "data", "-seeds", "1"],
            [
                "[compare-without-train-file] got -seeds with folders of sessions only; expected "
                "a train file, whose sessions can still be run; fix: name a train file, or remove "
                "-seeds",
                "[session-unknown] runs/a: got no such folder; expected the folder of a training "
                "session that has finished an epoch, or a train file; fix: give <output>/<name> "
                "of a session, or train it first",
                "[session-unknown] data: got a folder without metrics.jsonl and models/last.save; "
                "expected the folder of a training session that has finished an epoch, or a train "
                "file; fix: give <output>/<name> of a session, or train it first",
            ],
            id="folders of no session",
        ),
        pytest.param(
            ["-train", "train.yaml", "-model", "A.save", "B.save"],
            [
                "[command-line] got 2 models with -train; expected one, or several with -test; "
                "fix: give one model"
            ],
            id="several models to train",
        ),
        pytest.param(
            ["-test", "test.yaml", "-part", "3/2"],
            [
                "[command-line] got -part 3/2; expected i/n with i from 1 to n, such as 2/5; "
                "fix: correct it"
            ],
            id="a part behind the last",
        ),
        pytest.param(
            ["-test", "test.yaml", "-devices", "0"],
            [
                "[command-line] got -devices 0; expected a whole number from 1 to 1024; "
                "fix: choose another number"
            ],
            id="no device",
        ),
        pytest.param(
            ["-test", "test.yaml", "-part", "1/2", "-devices", "2"],
            [
                "[command-line] got -part with -devices; expected one of the two; "
                "fix: remove one of them"
            ],
            id="a part on several devices",
        ),
        pytest.param(
            ["-train", "train.yaml", "-keepGoing", "-part", "1/2"],
            [
                "[command-line] got -keepGoing with -train; expected -keepGoing with -test; "
                "fix: remove -keepGoing",
            ],
            id="parts of a training",
        ),
        pytest.param(
            ["-train", "train.yaml", "-dev", "tpu"],
            [
                "[device-unknown] -dev: got 'tpu'; expected cpu, cuda, cuda0, cuda1, …, mps or "
                "auto; fix: choose one of these"
            ],
            id="a device of another kind",
        ),
        pytest.param(
            ["-train", "trian.yaml"],
            [
                "[config-file-missing] trian.yaml: got no such file; expected a config file; "
                "fix: correct the path; did you mean 'train.yaml'?"
            ],
            id="a misspelt file",
        ),
        pytest.param(
            ["-train", "data"],
            [
                "[config-file-type] data: got a file name without an ending; expected .yaml or "
                ".yml, or .cfg for a file of DeepMedic; fix: give the path of a train file, or "
                "rename it"
            ],
            id="a folder",
        ),
        pytest.param(
            ["-test", "test.yaml"],
            [
                "[model-not-given] test.yaml: got no model; expected a .save or a model file; "
                "fix: add -model FILE, or model: FILE to the config file"
            ],
            id="no model",
        ),
        pytest.param(
            ["-newModel", "model.yaml", "-out", "data"],
            [
                "[file-exists] data: got a folder of this name; expected a name that is free; "
                "fix: choose another -out, or remove the file"
            ],
            id="a model in place of a folder",
        ),
        pytest.param(
            ["-check", "no\nsuch\x1b[31m.yaml"],
            [
                "[config-file-missing] no\\nsuch\\x1b[31m.yaml: got no such file; expected a "
                "config file; fix: correct the path"
            ],
            id="a name that would steer the terminal",
        ),
    ],
)
def test_a_wrong_command_line_is_explained(refused, arguments, problems):
    session = "results" if "-test" in arguments else None
    assert refused(*arguments, session=session) == problems


def test_double_dashes_work_too(command, place):
    result = command("--newModel", "model.yaml", "--out=M.save", "--quiet")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (place / "M.save").is_file()


def test_a_gpu_that_is_not_there_is_refused(refused, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert refused("-train", "train.yaml", "-dev", "cuda") == [
        "[device-absent] -dev: got cuda on a machine where torch finds 0 GPUs; expected a GPU "
        "that is there; fix: use -dev cpu, or install a torch build for your GPU and its driver"
    ]


@pytest.mark.parametrize("name", ["M", "M.save"])
def test_an_older_model_is_never_written_over(command, refused, place, name):
    assert command("-newModel", "model.yaml", "-out", "M").returncode == 0
    assert refused("-newModel", "model.yaml", "-out", name, "-seed", "1") == [
        "[file-exists] M.save: got a file that is there; expected a name that is free; "
        "fix: choose another -out, or remove the file"
    ]


def test_without_out_the_next_free_name_is_taken(command, place):
    for _ in range(3):
        assert command("-newModel", "model.yaml").returncode == 0
    assert sorted(path.name for path in (place / "runs/models").iterdir()) == [
        "small-2.save",
        "small-3.save",
        "small.save",
    ]


def test_the_first_twenty_of_many_problems_are_shown_and_the_rest_counted(command, place):
    rows = "".join(f"c{number},no{number}.nii.gz,no.nii.gz,,\n" for number in range(15))
    place.write("data/train.csv", "case,channel_T1,channel_FLAIR,labels,roi\n" + rows)
    result = command("-check", "train.yaml")
    assert result.returncode == 2
    assert len(result.errors) == 21
    assert result.errors[-1] == "ERROR … and 25 more"  # 15 cases without two images and labels


def test_a_bug_gives_one_line_and_a_file_with_its_trace(command, monkeypatch, tmp_path):
    def broken(*_, **__):
        raise KeyError("two\nlines")

    monkeypatch.setattr("deepseg.cli.commands.build_model", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = command("-newModel", "model.yaml")
    (trace,) = tmp_path.glob("deepseg-*.log")
    assert result.returncode == 1
    assert result.stderr == (
        f"ERROR [bug] KeyError: 'two\\nlines'; please report it with {trace}\n"
    )
    assert trace.read_text().startswith("Traceback")


def test_the_reader_of_the_output_may_go_away(start, place):
    process = start("-show", "model.yaml")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_the_demo_says_which_extra_is_missing(refused, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "nilearn", None)
    (problem,) = refused("-demo", "-out", "demo")
    assert problem.startswith("[demo-extra-missing] got no package nilearn")
    assert not (place / "demo").exists()


def test_precisions_are_those_of_the_settings():
    assert get_args(Precision) == PRECISIONS
