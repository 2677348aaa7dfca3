"""DeepMedic's example projects, version by version, put together again from what is known of them.

Each file is read as its version meant it, or refused with the line to write. What is compared is
what changes a result: layers and parameters, sampling, batch size, optimiser, schedule,
augmentation, normalisation, validation.
"""

import pytest

from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError
from deepseg.model.layout import layout

KINDS = {"model": ModelConfig, "train": TrainConfig, "test": TestConfig}
EIGHT = "[[3,3,3]] * 8"

# ---- Model files ----

NORMAL = f"""
modelName = "deepMedic"
folderForOutput = "../../../output/"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [30, 30, 40, 40, 40, 40, 50, 50]
kernelDimPerLayerNormal = {EIGHT}
useSubsampledPathway = True
numberFMsPerLayerSubsampled = [30, 30, 40, 40, 40, 40, 50, 50]
kernelDimPerLayerSubsampled = {EIGHT}
"""
RESIDUALS = """
layersWithResidualConnNormal = [4, 6, 8]
layersWithResidualConnSubsampled = [4, 6, 8]
layersWithResidualConnFC = [2]
"""
SEGMENTS = """
segmentsDimTrain = [37,37,37]
segmentsDimVal = [17,17,17]
segmentsDimInference = [45,45,45]
"""
DROPOUT = """
dropoutRatesNormal = []
dropoutRatesSubsampled = []
dropoutRatesFc = [0.0, 0.5, 0.5]
"""
LAST = """
convWeightsInit = ["fanIn", 2]
activationFunction = "prelu"
rollAverageForBNOverThatManyBatches = 60
"""
TINY = """
modelName = "tinyCnn"
folderForOutput = "../../../output/"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3,3,3], [3,3,3], [3,3,3]]
useSubsampledPathway = True
subsampleFactor = [[3,3,3]]
segmentsDimTrain = [25,25,25]
segmentsDimInference = [45,45,45]
"""
FC = """
subsampleFactor = [[3,3,3], [5,5,5]]
numberFMsPerLayerFC = [250, 250]
"""
FC_FROM_0_8_2 = """
kernelDimPerLayerFC = [[3,3,3], [1,1,1], [1,1,1]]
padTypePerLayerFC = ['mirror', None, None]
"""
ORIGINAL = """
modelName = "deepMedicOriginal"
folderForOutput = "../../../output/"
numberOfOutputClasses = 5
numberOfInputChannels = 2
numberFMsPerLayerNormal = [30, 30, 40, 40, 40, 40, 50, 50]
kernelDimPerLayerNormal = [[3,3,3]] * 8
useSubsampledPathway = True
numberFMsPerLayerFC = [150, 150]
kernelDimFor1stFcLayer = [1, 1, 1]
dropoutRatesFc = [0.0, 0.5, 0.5]
segmentsDimTrain = [25,25,25]
segmentsDimVal = [17,17,17]
segmentsDimInference = [45,45,45]
batchSizeTrain = 10
batchSizeVal = 48
batchSizeInfer = 10
"""
NUMBERED = "relu0orPrelu1 = 1\ninitializeClassic0orDelving1 = 1\n"
OPTIMISER_2016 = """
learningRate = 0.001
sgd0orAdam1orRms2 = 2
classicMom0OrNesterov1 = 1
momentumValue = 0.6
momNonNorm0orNormalized1 = 1
rhoRms = 0.9
epsilonRms = 0.0001
L1_reg = 0.000001
L2_reg = 0.0001
"""
DEEPMEDIC = 2_008_901  # trainable parameters of the model with three pathways
TWO_PATHS = sum(  # of deepMedicOriginal: two pathways, then 100 -> 150 -> 150 -> 5
    (
        2 * (2 + 27 * sum(a * b for a, b in zip([2, 30, 30, 40, 40, 40, 40, 50],
                                                [30, 30, 40, 40, 40, 40, 50, 50], strict=True))
             + 3 * (30 + 30 + 40 * 4 + 50)),
        3 * (100 + 150 + 150) + 100 * 150 + 150 * 150 + 150 * 5,
        5,
    )
)  # fmt: skip
WIDE = "[30, 40, 50, 60, 70, 80, 90, 100]"
MODEL_FILES = [
    pytest.param(NORMAL + FC + FC_FROM_0_8_2 + RESIDUALS + SEGMENTS + DROPOUT + LAST,
                 DEEPMEDIC, [1, 3, 5], "", id="0.8.2 to 0.8.4 deepMedic"),
    pytest.param(NORMAL.replace("[30, 30, 40, 40, 40, 40, 50, 50]", WIDE)
                 + FC.replace("[250, 250]", "[300, 300]") + FC_FROM_0_8_2 + RESIDUALS + SEGMENTS
                 + DROPOUT + LAST, None, [1, 3, 5], "", id="0.8 deepMedicWide1"),
    pytest.param(TINY, 3_291, [1, 3], "", id="0.7 to 0.8.4 tinyCnn"),
    pytest.param(NORMAL + FC + "kernelDimFor1stFcLayer = [3,3,3]\n" + RESIDUALS + SEGMENTS + DROPOUT
                 + LAST, DEEPMEDIC, [1, 3, 5], "", id="0.7.3 to 0.8.1 deepMedic"),
    pytest.param(NORMAL + FC + "kernelDimFor1stFcLayer = [3,3,3]\nbatchSizeTrain = 10\n"
                 "batchSizeVal = 48\nbatchSizeInfer = 10\n" + RESIDUALS + SEGMENTS + DROPOUT + LAST,
                 DEEPMEDIC, [1, 3, 5], "as from 0.7 on, the last list holds for all pathways",
                 id="0.7.0 to 0.7.2 deepMedic"),
    pytest.param(TINY + "batchSizeTrain = 10\n", 3_291, [1, 3], "take from here: batchSizeTrain",
                 id="0.6 to 0.7.2 tinyCnn"),
    pytest.param(ORIGINAL + LAST, TWO_PATHS, [1, 3], "take from here: batchSizeTrain",
                 id="0.6.1 deepMedicOriginal"),
    pytest.param(ORIGINAL + NUMBERED, TWO_PATHS, [1, 3], "take from here: batchSizeTrain",
                 id="0.6 deepMedicOriginal"),
    pytest.param(ORIGINAL + NUMBERED + OPTIMISER_2016
                 + "kernelDimensionsSubsampled = [[3,3,3]] * 8\n",
                 TWO_PATHS, [1, 3], "take from here: batchSizeTrain, learningRate",
                 id="0.5 deepMedicOriginal"),
]  # fmt: skip


def document(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    file = tmp_path.__class__("some.cfg")
    file.write_text(text)
    return file


@pytest.mark.parametrize(("text", "parameters", "factors", "warning"), MODEL_FILES)
def test_model_files(tmp_path, monkeypatch, text, parameters, factors, warning):
    file = document(tmp_path, monkeypatch, text)
    assert kind_of_file(file) == "model"
    result = load(ModelConfig, file)
    plan = layout(result.config)
    if parameters is not None:
        assert plan.parameters == parameters
    assert [pathway.geometry.factor[0] for pathway in plan.pathways] == factors
    message = "\n".join(result.warnings)
    assert warning in message if warning else message == ""
    fc = result.config.fc_pathway
    has_context = "kernelDimFor1stFcLayer = [3,3,3]" in text or "kernelDimPerLayerFC" in text
    assert (fc.kernels[0] == (3, 3, 3), fc.padding[0] == "mirror") == (has_context,) * 2 or (
        "kernelDimFor1stFcLayer = [1, 1, 1]" in text
    )
    assert fc.dropout == ((0.5,) if "tinyCnn" in text else (0, 0.5, 0.5))


# ---- Train files ----

LISTS = """
sessionName = "trainSessionDm"
folderForOutput = "../../../output/"
cnnModelFilePath = "placeholder"
channelsTraining = ["./trainChannels_flair.cfg", "./trainChannels_t1c.cfg"]
gtLabelsTraining = "./trainGtLabels.cfg"
roiMasksTraining = "./trainRoiMasks.cfg"
numberOfEpochs = 35
numberOfSubepochs = 20
numOfCasesLoadedPerSubepoch = 50
numberTrainingSegmentsLoadedOnGpuPerSubep = 1000
"""
VALIDATION = """
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
channelsValidation = ["./validation/validationChannels_flair.cfg",
                      "./validation/validationChannels_t1c.cfg"]
gtLabelsValidation = "./validation/validationGtLabels.cfg"
numberValidationSegmentsLoadedOnGpuPerSubep = 5000
roiMasksValidation = "./validation/validationRoiMasks.cfg"
numberOfEpochsBetweenFullInferenceOnValImages = 5
namesForPredictionsPerCaseVal = "./validation/validationNamesOfPredictionsSimple.cfg"
saveSegmentationVal = True
saveProbMapsForEachClassVal = [True, True, True, True, True]
"""
RMS = """
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
PREDEFINED = """
typeOfLearningRateSchedule = "predef"
whenDecreasingDivideLrBy = 2.0
predefinedSchedule = [17, 22, 27, 30, 33]
"""
NUMBERED_PREDEFINED = """
stable0orAuto1orPredefined2orExponential3LrSchedule = 2
whenDecreasingDivideLrBy = 2.0
predefinedSchedule = [12, 16, 19, 22, 25, 28, 31, 34, 37, 40, 43, 46]
"""
SWITCHES = """
useDefaultTrainingSamplingFromGtAndRoi = True
useDefaultUniformValidationSampling = True
"""
OLD_CHANGES = """
reflectImagesPerAxis = [1, 0, 0]
performIntAugm = True
sampleIntAugmShiftWithMuAndStd = [0.0, 0.05]
sampleIntAugmMultiWithMuAndStd = [1.0, 0.01]
"""
HISTOGRAM = (
    "'hist_dist': {'shift': {'mu': 0.0, 'std': 0.05}, 'scale': {'mu': 1.0, 'std': 0.01}}, "
    "'reflect': (0.5, 0.0, 0.0), "
    "'rotate90': {'xy': {'0': 0.8, '90': 0.1, '180': 0.0, '270': 0.1}, 'yz': None, 'xz': None}"
)
AFFINE = "{'affine': {'prob': 0.5, 'max_rot_xyz': (45., 45., 45.), 'max_scaling': .1}}"
CHANGES_0_8 = f"augm_img_prms_tr = {AFFINE}\naugm_sample_prms_tr = {{{HISTOGRAM}}}\n"
CHANGES_0_7_2 = f"augm_params_tr = {{{HISTOGRAM}}}\n"
CHANGES_0_7_4 = f"augmentation_image = {AFFINE}\naugmentation_sample = {{{HISTOGRAM}}}\n"
LOSS = 'losses_and_weights = {"xentr": 1.0, "iou": None, "dsc": None}\n'
NORMALISATION = """
norm_verbosity_lvl = 0
norm_zscore_prms = {'apply_to_all_channels': True,
                    'apply_per_channel': None,
                    'cutoff_percents': [5., 95.], 'cutoff_times_std': [3., 3.],
                    'cutoff_below_mean': True}
"""
FROZEN = "layersToFreezeNormal = []\nlayersToFreezeSubsampled = []\nlayersToFreezeFC = []\n"
BASE = LISTS + VALIDATION + FROZEN
LATE = (BASE + "typeOfSamplingForTraining = 3\nbatchsize_train = 10\nbatchsize_val_samples = 50\n"
        "batchsize_val_whole = 10\nnum_processes_sampling = 0\n" + PREDEFINED + RMS
        + LOSS)  # fmt: skip
TWO_SORTS, PER_CLASS = "foreground_background", "per_class"
TRAIN_FILES = [
    pytest.param(LATE + CHANGES_0_8 + NORMALISATION, (PER_CLASS, 10, 0.5, "predefined"),
                 (0.0, 0.05), False, id="0.8.0 to 0.8.4"),
    pytest.param(LATE + CHANGES_0_7_4 + "tensorboardLog = False\n",
                 (PER_CLASS, 10, 0.5, "predefined"), (0.0, 0.05), False, id="0.7.4"),
    pytest.param(LATE + CHANGES_0_7_2, (PER_CLASS, 10, 0.5, "predefined"), (0.0, 0.05), False,
                 id="0.7.3"),
    pytest.param(BASE + SWITCHES + PREDEFINED + RMS + CHANGES_0_7_2,
                 (TWO_SORTS, 10, 0.5, "predefined"), (0.0, 0.05), True, id="0.7.2"),
    pytest.param(BASE + PREDEFINED + RMS + OLD_CHANGES, (TWO_SORTS, 10, 0.5, "predefined"),
                 (0.0, 0.05), True, id="0.7.0 and 0.7.1"),
    pytest.param(BASE + NUMBERED_PREDEFINED + SWITCHES + RMS + OLD_CHANGES
                 + "saveAllFmsIn4DimImageVal = False\n",
                 (TWO_SORTS, 10, 0.5, "predefined"), (0.0, 0.05), True, id="0.6.1"),
    pytest.param(BASE + NUMBERED_PREDEFINED + SWITCHES + RMS + "performIntAugm = True\n",
                 (TWO_SORTS, 10, 0.0, "predefined"), (0.0, 0.05), True, id="0.6, numbers left out"),
    pytest.param(BASE + NUMBERED_PREDEFINED
                 + "percentOfSamplesToExtractPositiveTrain = 0.5\n"
                 "samplingMasksAreProbMapsTrain = False\n",
                 (TWO_SORTS, 10, 0.0, "predefined"), None, True, id="0.5"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected", "shift", "is_old"), TRAIN_FILES)
def test_train_files(tmp_path, monkeypatch, text, expected, shift, is_old):
    file = document(tmp_path, monkeypatch, text)
    assert kind_of_file(file) == "train"
    result = load(TrainConfig, file)
    config = result.config
    augmentation = config.training.augmentation
    reflected = 0.0 if augmentation is None else augmentation.reflect[0]
    assert expected == (
        config.training.sampling.type,
        config.training.batch_size,
        reflected,
        config.schedule.type,
    )
    if shift is not None:
        changes = augmentation.intensity
        assert (changes.shift.mean, changes.shift.deviation) == shift
    assert (config.optimiser.name, config.optimiser.momentum) == ("rmsprop", 0.6)
    assert config.optimiser.normalised_momentum is ("momNonNorm0orNormalized1" not in text)
    assert config.validation.samples.segments == 5000
    assert config.validation.samples.sampling.type == "uniform"
    assert config.validation.volumes.every == 5
    has_scores = "norm_zscore_prms" in text
    assert (config.preparation.z_score != "none") is has_scores
    message = "\n".join(result.warnings)
    assert ("read as a file of DeepMedic 0.7.2 or before" in message) is is_old


def test_the_settings_of_a_project_of_0_5_come_from_both_of_its_files(tmp_path, monkeypatch):
    (tmp_path / "model.cfg").write_text(
        ORIGINAL.replace("batchSizeTrain = 10", "batchSizeTrain = 6")
        + NUMBERED
        + OPTIMISER_2016.replace("momentumValue = 0.6", "momentumValue = 0.7")
    )
    file = document(tmp_path, monkeypatch, BASE + NUMBERED_PREDEFINED)
    config = load(TrainConfig, file, model_file=tmp_path / "model.cfg").config
    assert config.training.batch_size == 6
    assert (config.optimiser.momentum, config.optimiser.normalised_momentum) == (0.7, True)
    named = BASE.replace("placeholder", "model.cfg") + NUMBERED_PREDEFINED
    assert "model.cfg" in named
    naming = load(TrainConfig, document(tmp_path, monkeypatch, named)).config
    assert (naming.optimiser, naming.training.batch_size) == (config.optimiser, 6)


# ---- Test files ----

TESTS = """
sessionName = "testSessionDm"
folderForOutput = "../../../output/"
cnnModelFilePath = "placeholder"
channels = ["./testChannels_flair.cfg", "./testChannels_t1c.cfg"]
namesForPredictionsPerCase = "./testNamesOfPredictions.cfg"
roiMasks = "./testRoiMasks.cfg"
gtLabels = "./testGtLabels.cfg"
saveSegmentation = True
saveProbMapsForEachClass = [True, True, False, False, False]
saveIndividualFms = True
minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway = [[],[],[],[],[],[],[],[0,150]]
minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway = [[],[],[],[],[],[],[],[]]
minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway = [[],[0,150],[]]
"""


@pytest.mark.parametrize(
    ("more", "warning"),
    [
        pytest.param("batchsize = 10\npadInputImagesBool = True\n" + NORMALISATION, "", id="0.8"),
        pytest.param("batchsize = 10\nrun_input_checks = True\n", "", id="0.7.3"),
        pytest.param("padInputImagesBool = True\nsaveAllFmsIn4DimImage = False\n", "",
                     id="0.6.1 and 0.7"),
        pytest.param("saveAllFmsIn4DimImage = True\n", "saveAllFmsIn4DimImage (feature maps are "
                     "written one by one)", id="0.5, all maps in one image"),
    ],
)  # fmt: skip
def test_test_files(tmp_path, monkeypatch, more, warning):
    file = document(tmp_path, monkeypatch, TESTS + more)
    assert kind_of_file(file) == "test"
    result = load(TestConfig, file)
    assert result.config.save.probabilities == (0, 1)
    assert set(result.config.save.feature_maps) == {"normal.8", "fc.2"}
    message = "\n".join(result.warnings)
    assert warning in message if warning else message == ""


# ---- What has no safe translation is refused with the line to write ----


@pytest.mark.parametrize(
    ("text", "key", "fix"),
    [
        (ORIGINAL + "indicesOfLayersWithResidualConnectionsPerPathType = [[3], [3], [2]]\n",
         "indicesOfLayersWithResidualConnectionsPerPathType",
         "use layersWithResidualConnNormal, …Subsampled and …FC, which count from 1"),
        (LATE + "cutoff_percent = [5., 95.]\n", "cutoff_percent",
         "use norm_zscore_prms, such as {'apply_to_all_channels': True}"),
        (TESTS + "cutoff_mean = True\n", "cutoff_mean",
         "use norm_zscore_prms, such as {'apply_to_all_channels': True}"),
    ],
)  # fmt: skip
def test_keys_that_are_refused(tmp_path, monkeypatch, text, key, fix):
    file = document(tmp_path, monkeypatch, text)
    with pytest.raises(DeepsegError) as error:
        load(KINDS[kind_of_file(file)], file)
    (problem,) = error.value.problems
    assert (problem.code, problem.fix) == ("config-old-key", fix)
    assert problem.where == f"some.cfg:{text.count(chr(10))} {key}"
