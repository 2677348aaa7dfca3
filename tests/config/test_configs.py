"""The example files load, teach, and say what DeepMedic's own configurations say."""

import re
from pathlib import Path

import pytest

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.reference import deepmedic_keys_markdown, reference_markdown
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig

ROOT = Path(__file__).parents[2]
MODELS = {"model": ModelConfig, "train": TrainConfig, "test": TestConfig}
FILES = sorted((ROOT / "configs").glob("*/*.yaml"))

DEEPMEDIC = """\
modelName = "deepmedic"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [30, 30, 40, 40, 40, 40, 50, 50]
kernelDimPerLayerNormal = [[3,3,3]] * 8
layersWithResidualConnNormal = [4, 6, 8]
useSubsampledPathway = True
subsampleFactor = [[3,3,3], [5,5,5]]
numberFMsPerLayerFC = [250, 250]
kernelDimPerLayerFC = [[3,3,3], [1,1,1], [1,1,1]]
padTypePerLayerFC = ['mirror', None, None]
layersWithResidualConnFC = [2]
segmentsDimTrain = [37,37,37]
segmentsDimVal = [17,17,17]
segmentsDimInference = [45,45,45]
dropoutRatesFc = [0.0, 0.5, 0.5]
"""
WIDE = DEEPMEDIC.replace(
    "[30, 30, 40, 40, 40, 40, 50, 50]", "[30, 40, 50, 60, 70, 80, 90, 100]"
).replace("[250, 250]", "[300, 300]")
TINY = """\
modelName = "tinyCnn"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3], [3,3,3]]
useSubsampledPathway = True
subsampleFactor = [[3,3,3]]
segmentsDimTrain = [25,25,25]
segmentsDimInference = [45,45,45]
"""
LISTS = """\
folderForOutput = "out"
dataframe_train = "train.csv"
dataframe_val = "val.csv"
"""
DEEPMEDIC_TRAIN = (
    LISTS
    + """\
typeOfSamplingForTraining = 3
numberOfEpochs = 35
numberOfSubepochs = 20
numOfCasesLoadedPerSubepoch = 50
numberTrainingSegmentsLoadedOnGpuPerSubep = 1000
batchsize_train = 10
typeOfLearningRateSchedule = 'predef'
whenDecreasingDivideLrBy = 2.0
predefinedSchedule = [17, 22, 27, 30, 33]
augm_sample_prms_tr = {
    'hist_dist': {'shift': {'mu': 0.0, 'std': 0.05}, 'scale': {'mu': 1.0, 'std': 0.01}},
    'reflect': (0.5, 0., 0.)}
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
numberValidationSegmentsLoadedOnGpuPerSubep = 5000
batchsize_val_samples = 50
typeOfSamplingForVal = 1
numberOfEpochsBetweenFullInferenceOnValImages = 5
learningRate = 0.001
sgd0orAdam1orRms2 = 2
classicMom0OrNesterov1 = 1
momentumValue = 0.6
momNonNorm0orNormalized1 = 0
rhoRms = 0.9
epsilonRms = 10**(-4)
L1_reg = 0.000001
L2_reg = 0.0001
"""
)
TINY_TRAIN = (
    LISTS
    + """\
typeOfSamplingForTraining = 0
numberOfEpochs = 2
numberOfSubepochs = 2
batchsize_train = 10
typeOfLearningRateSchedule = 'poly'
augm_img_prms_tr = {'affine': {'prob': 0.7}}
"""
)


def example(kind, name):
    return load(MODELS[kind], ROOT / "configs" / kind / f"{name}.yaml").config


@pytest.fixture
def from_cfg(tmp_path):
    """The config of a ``.cfg`` file with this text."""

    def from_cfg(kind, text):
        file = tmp_path / "some.cfg"
        file.write_text(text)
        return load(MODELS[kind], file).config

    return from_cfg


def test_there_are_examples_of_every_kind():
    assert [f"{file.parent.name}/{file.name}" for file in FILES] == [
        "model/deepmedic.yaml",
        "model/deepmedic_wide.yaml",
        "model/tiny.yaml",
        "model/unet_plain.yaml",
        "model/unet_residual.yaml",
        "test/deepmedic.yaml",
        "test/tiny.yaml",
        "train/deepmedic.yaml",
        "train/tiny.yaml",
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_an_example_loads(file):
    assert load(MODELS[file.parent.name], file).warnings == ()


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_comment_stands_above_every_key_of_an_example(file):
    lines = file.read_text().splitlines()
    silent = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if re.match(r" *\w+:", line) and not above.lstrip().startswith("#")
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("name", "text"),
    [("deepmedic", DEEPMEDIC), ("deepmedic_wide", WIDE), ("tiny", TINY)],
)
def test_an_example_network_is_deepmedics_layer_by_layer(from_cfg, name, text):
    actual, reference = example("model", name), from_cfg("model", text)
    assert actual.pathways == reference.pathways
    assert actual.fc_pathway == reference.fc_pathway
    assert actual.segment_sizes == reference.segment_sizes
    assert actual.activation == reference.activation
    assert actual.initialisation == reference.initialisation


@pytest.mark.parametrize(("name", "text"), [("deepmedic", DEEPMEDIC_TRAIN), ("tiny", TINY_TRAIN)])
def test_an_example_session_trains_like_deepmedics(from_cfg, name, text):
    actual, reference = example("train", name), from_cfg("train", text)
    for part in ("epochs", "subepochs", "loss", "optimiser", "schedule", "freeze"):
        assert getattr(actual, part) == getattr(reference, part)
    for part in (
        "sampling",
        "cases_per_subepoch",
        "segments_per_subepoch",
        "batch_size",
        "augmentation",
    ):
        assert getattr(actual.training, part) == getattr(reference.training, part)


def test_the_default_session_validates_like_deepmedics(from_cfg):
    actual = example("train", "deepmedic").validation
    reference = from_cfg("train", DEEPMEDIC_TRAIN).validation
    assert actual.samples == reference.samples
    assert actual.volumes.every == reference.volumes.every


def test_the_table_of_deepmedics_keys_is_up_to_date():
    page = (ROOT / "documentation" / "deepmedic_keys.md").read_text()
    assert page.endswith(deepmedic_keys_markdown()), (
        "replace the table at the end by: python -m deepseg.config.reference deepmedic"
    )


def test_the_page_of_all_keys_is_up_to_date():
    page = (ROOT / "documentation" / "configuration.md").read_text()
    assert page == reference_markdown(), (
        "run: python -m deepseg.config.reference > documentation/configuration.md"
    )


def test_the_page_names_deepmedics_key_beside_ours():
    lines = reference_markdown().splitlines()
    assert (
        "| `optimiser.rho` | a number of at least 0 and below 1 | `0.9` | Memory of squared "
        "gradients. | `rhoRms` |"
    ) in lines
    assert (
        "| `loss.dice` | a number of at least 0 | `0.0` | Weight of 1 - mean soft Dice of all "
        "classes. | `losses_and_weights['dsc']` |"
    ) in lines


def test_the_page_gives_the_defaults_that_hold_at_each_place():
    lines = reference_markdown().splitlines()
    assert any(
        line.startswith("| `training.sampling.type` |") and "`'per_class'`" in line
        for line in lines
    )
    assert any(
        line.startswith("| `validation.samples.sampling.type` |") and "`'uniform'`" in line
        for line in lines
    )
