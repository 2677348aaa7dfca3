"""What log.txt and ``-show`` tell of a training session afterwards."""

import json
import re

import pytest

from deepseg.cli.main import _way_on


@pytest.fixture
def log(trained):
    return (trained / "runs/training/log.txt").read_text()


def test_the_command_and_every_setting_are_in_the_log(log):
    assert re.search(r" command: .+", log)
    assert re.search(r"   training\.batch_size: 4$", log, flags=re.MULTILINE)
    assert re.search(r"   optimiser\.rho: 0\.9$", log, flags=re.MULTILINE)


def test_every_sub_epoch_has_its_metrics_by_class(log, trained):
    lines = re.findall(r"(epoch \d), sub-epoch 1 of 1: loss ([\d.]+), accuracy ([\d.]+), dice "
                       r"foreground ([\d.]+) rim", log)  # fmt: skip
    records = [
        json.loads(line)["training"]
        for line in (trained / "runs/training/metrics.jsonl").read_text().splitlines()
    ]
    assert [line[0] for line in lines] == ["epoch 1", "epoch 2"]
    for (_, *values), record in zip(lines, records, strict=True):  # one sub-epoch is all of it
        expected = (record["loss"], record["accuracy"], record["dice"]["foreground"])
        assert values == [f"{value:.4f}" for value in expected]


def test_every_validation_case_has_its_dice(log):
    assert re.search(r" epoch 2, c: dice foreground [\d.-]+ rim [\d.-]+", log)


def test_show_tells_the_settings_of_the_session(command, model):
    assert re.search(r"training\.batch_size +4\n", command("-show", model).stdout)


def test_settings_and_command_are_in_the_outcome_and_in_the_model(command, place, monkeypatch):
    words = ["run.py", "-train", "train.yaml", "-note", "two words"]
    monkeypatch.setattr("sys.argv", words)
    assert command("-train", "train.yaml").returncode == 0
    outcome = json.loads((place / "runs/training/outcome.json").read_text())
    typed = "run.py -train train.yaml -note 'two words'"
    assert outcome["command"] == typed
    assert outcome["settings"]["training"]["batch_size"] == 4
    assert outcome["settings"]["optimiser"]["rho"] == 0.9  # a default
    last = "runs/training/models/last.save"
    assert re.search(rf"command +{re.escape(typed)}\n", command("-show", last).stdout)
    shown = json.loads(command("-show", last, "-json").stdout)["training"]
    assert shown["command"] == typed
    assert shown["settings"]["optimiser"] == outcome["settings"]["optimiser"]
    assert command("-test", "test.yaml", "-model", last).returncode == 0
    outcome = json.loads((place / "runs/results/outcome.json").read_text())
    assert outcome["settings"]["save"]["pictures"] is False


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["-train", "t.yaml", "-model", "M.save"], "the same command goes on"),
        (["-train", "t.yaml", "-resetOptimizer"],
         "the same command goes on, without -resetOptimizer once an epoch is saved"),
        (["--train=t.yaml", "--resetopt"],
         "the same command goes on, without -resetopt once an epoch is saved"),
        (["-train", "t.yaml", "-load", "A.save"],
         "the same command goes on, without -load once an epoch is saved"),
        (["-test", "t.yaml", "-load", "A.save"], "the same command goes on"),
    ],
)  # fmt: skip
def test_the_advice_after_ctrl_c_leads_on(words, advice):
    assert _way_on(words) == advice
