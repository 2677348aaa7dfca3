"""Advice about DeepMedic's files leads on: what an error or a warning says to write is read."""

import re
from pathlib import Path

import pytest

from deepseg.config.deepmedic.translate import house_names, in_deepmedic_keys
from deepseg.config.load import load, wording_of
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem
from tests.config.deepmedic.test_translate import (
    ALL_KEYS,
    BEGINNINGS,
    MODELS,
    TWO,
    VALIDATION,
)

VALUES = (
    "1", "2", "4", "-5", "0", "3.5", "'x'", "[]", "[1]", "[0.3, 0.3, 0.4]", "[[5,5,5]]",
    "{'a': 1}", "True", "[9,9,9]", "[40]*40", "'auto'", "'expon'", "'predef'",
    "{'affine': {'prob': 3}}", "{'reflect': (2, 0, 0)}",
    "{'xentr': 0, 'iou': None, 'dsc': None}",
)  # fmt: skip
SWITCHES = """
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
"""
OUR_VALUES = (
    "batch_size|segments_per_subepoch|cross_entropy|foreground_background|per_class|whole_image|"
    "z_score|final_momentum|divide_by|patience|plateau"
)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Whatever is said about a file of a kind."""
    monkeypatch.chdir(tmp_path)

    def told(kind, text):
        Path("some.cfg").write_text(text)
        try:
            return list(load(MODELS[kind], Path("some.cfg")).warnings)
        except DeepsegError as error:
            return [str(problem) for problem in error.problems]

    return told


def beginning(kind, key):
    lines = BEGINNINGS[kind] + (VALIDATION + SWITCHES if kind == "train" else "")
    return "".join(f"{line}\n" for line in lines.splitlines() if not line.startswith(f"{key} "))


@pytest.mark.parametrize("kind", MODELS)
def test_whatever_is_wrong_with_a_key_is_told_without_our_names(told, kind):
    actual = {name for name in house_names(kind) if "." in name}
    keys = ALL_KEYS[kind].split()
    for number, key in enumerate(keys):
        for value in VALUES[number % 3 :: 3]:
            for line in told(kind, beginning(kind, key) + f"{key} = {value}"):
                words = set(re.findall(r"[a-z_]+(?:\.[a-z_0-9]+)+", line))
                assert not words & actual, line
                assert not re.search(rf"\b({OUR_VALUES})\b", line), line


def test_warnings_of_a_session_speak_of_the_keys_of_its_file():
    warning = "optimiser.learning_rate changed since the last epoch: 0.001 → 0.01"
    assert wording_of(Path("T.cfg"), TrainConfig)(warning).startswith("learningRate changed")
    assert wording_of(Path("T.yaml"), TrainConfig)(warning) == warning


@pytest.mark.parametrize(
    ("kind", "wrong", "advice", "right"),
    [
        ("model", "numberOfOutputClass = 3", "did you mean 'numberOfOutputClasses'?",
         ""),
        ("model", "activationFunction = 'prelo'", "did you mean 'prelu'?",
         "activationFunction = 'prelu'"),
        ("model", "indicesOfLayersWithResidualConnectionsPerPathway = [[2], [1]]",
         "use layersWithResidualConnNormal, …Subsampled and …FC, which count from 1",
         "layersWithResidualConnNormal = [3]\nlayersWithResidualConnFC = []"),
        ("model", "kernelDimFor1stFcLayer = [3,3,3]\nkernelDimPerLayerFC = [[3,3,3]]",
         "remove 'kernelDimFor1stFcLayer', the older name", "kernelDimPerLayerFC = [[3,3,3]]"),
        ("model", "batchsize_train = 10", "move it to the train file", ""),
        ("train", "cutoff_percent = [5, 95]",
         "use norm_zscore_prms, such as {'apply_to_all_channels': True}",
         "norm_zscore_prms = {'apply_to_all_channels': True}"),
        ("test", "cutoff_std = [3, 3]",
         "use norm_zscore_prms, such as {'apply_to_all_channels': True}",
         "norm_zscore_prms = {'apply_to_all_channels': True}"),
        ("train", "typeOfLearningRateSchedule = 'predef'", "add 'predefinedSchedule' to the file",
         "typeOfLearningRateSchedule = 'predef'\npredefinedSchedule = [3]"),
        ("train", "typeOfLearningRateSchedule = 'auto'",
         "set performValidationOnSamplesThroughoutTraining = True",
         "typeOfLearningRateSchedule = 'auto'\n" + VALIDATION
         + "performValidationOnSamplesThroughoutTraining = True"),
        ("train", "numberOfEpochs = 5\ntypeOfLearningRateSchedule = 'poly'\n"
         "numEpochsToWaitBeforeLoweringLr = 9", "raise numberOfEpochs",
         "numberOfEpochs = 10\ntypeOfLearningRateSchedule = 'poly'\n"
         "numEpochsToWaitBeforeLoweringLr = 9"),
        ("train", "losses_and_weights = {'xentr': 0, 'iou': None, 'dsc': None}", "'xentr': 1",
         "losses_and_weights = {'xentr': 1, 'iou': None, 'dsc': None}"),
        ("train", "performValidationOnSamplesThroughoutTraining = True",
         "add 'channelsValidation' to the file",
         "performValidationOnSamplesThroughoutTraining = True\n" + VALIDATION),
        ("train", "numberTrainingSegmentsLoadedOnGpuPerSubep = 1",
         "lower batchsize_train or raise numberTrainingSegmentsLoadedOnGpuPerSubep",
         "numberTrainingSegmentsLoadedOnGpuPerSubep = 8"),
        ("train", "percentOfSamplesToExtractPositiveTrain = 0.5",
         "say proportionOfSamplesToExtractPerCategoryTraining",
         "typeOfSamplingForTraining = 0\n"
         "proportionOfSamplesToExtractPerCategoryTraining = [0.5, 0.5]"),
        ("train", "weightedMapsForPosSamplingTrain = 'maps.cfg'",
         "say weightedMapsForSamplingEachCategoryTrain",
         "typeOfSamplingForTraining = 0\n"
         "weightedMapsForSamplingEachCategoryTrain = ['foreground.cfg', 'background.cfg']"),
    ],
)  # fmt: skip
def test_what_is_advised_is_read(told, kind, wrong, advice, right):
    lines = told(kind, BEGINNINGS[kind] + wrong)
    assert any(advice in line for line in lines), lines
    assert told(kind, BEGINNINGS[kind] + right) == []


def test_the_line_to_write_for_theanos_feature_maps_is_read_as_it_stands(told):
    (line, _) = told("model", BEGINNINGS["model"] + TWO + "batchSizeTrain = 10")
    halved = line.rpartition("write ")[2]
    assert halved == "numberFMsPerLayerSubsampled = [[4, 5, 6], [2, 2, 3]]"
    (rest,) = told("model", BEGINNINGS["model"] + TWO + f"batchSizeTrain = 10\n{halved}")
    assert "take from here: batchSizeTrain" in rest


def test_advice_about_masks_and_epochs_is_of_a_cfg_file():
    problem = Problem(
        "roi-missing",
        got="no ROI for a",
        expected="a ROI",
        fix="give the masks; or write 'preparation: {roi: nonzero}' for masks; or raise epochs",
    )
    assert in_deepmedic_keys(problem, "train").fix == (
        "give the masks; or write this file as YAML, by -convert, with 'preparation: {roi: "
        "nonzero}' for masks; or raise numberOfEpochs"
    )
