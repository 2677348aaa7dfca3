"""DeepMedic's keys in the house's words: what comes out, what is said, and where it points."""

from contextlib import suppress

import pytest

from deepseg.config.deepmedic.key_rules import Key, OldKey
from deepseg.config.deepmedic.translate import KEYS, translate
from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.load import load
from deepseg.config.model import FanIn, ModelConfig, Normal
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.config.validation.type_descriptions import SchemaType, schema_type_of_field
from deepseg.errors import DeepsegError

MODELS = {"model": ModelConfig, "train": TrainConfig, "test": TestConfig}

MODEL = """\
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5, 6]
kernelDimPerLayerNormal = [[3,3,1], [3,3,3], [5,3,3]]
segmentsDimTrain = [25,23,21]
"""
TRAIN = """\
folderForOutput = "out"
channelsTraining = ["flair.cfg", "t1.cfg"]
gtLabelsTraining = "labels.cfg"
batchsize_train = 8
"""
VALIDATION = """\
channelsValidation = ["v_flair.cfg", "v_t1.cfg"]
gtLabelsValidation = "v_labels.cfg"
"""
TEST = """\
folderForOutput = "out"
channels = ["flair.cfg", "t1.cfg"]
"""
BEGINNINGS = {"model": MODEL, "train": TRAIN, "test": TEST}

ALL_KEYS = {
    "model": """
        modelName folderForOutput numberOfOutputClasses numberOfInputChannels
        numberFMsPerLayerNormal kernelDimPerLayerNormal padTypePerLayerNormal
        layersWithResidualConnNormal lowerRankLayersNormal useSubsampledPathway
        numberFMsPerLayerSubsampled kernelDimPerLayerSubsampled padTypePerLayerSubsampled
        subsampleFactor layersWithResidualConnSubsampled lowerRankLayersSubsampled
        numberFMsPerLayerFC kernelDimPerLayerFC padTypePerLayerFC layersWithResidualConnFC
        segmentsDimTrain segmentsDimVal segmentsDimInference dropoutRatesNormal
        dropoutRatesSubsampled dropoutRatesFc convWeightsInit activationFunction
        rollAverageForBNOverThatManyBatches batchSizeTrain batchSizeVal batchSizeInfer
        kernelDimFor1stFcLayer kernelDimensionsSubsampled initializeClassic0orDelving1
        relu0orPrelu1 learningRate sgd0orAdam1orRms2 classicMom0OrNesterov1 momentumValue
        momNonNorm0orNormalized1 b1Adam b2Adam epsilonAdam rhoRms epsilonRms L1_reg L2_reg
        indicesOfLayersWithResidualConnectionsPerPathType
        indicesOfLayersWithResidualConnectionsPerPathway
    """,
    "train": """
        sessionName folderForOutput cnnModelFilePath tensorboard_log dataframe_train
        channelsTraining gtLabelsTraining roiMasksTraining typeOfSamplingForTraining
        proportionOfSamplesToExtractPerCategoryTraining weightedMapsForSamplingEachCategoryTrain
        numberOfEpochs numberOfSubepochs numOfCasesLoadedPerSubepoch
        numberTrainingSegmentsLoadedOnGpuPerSubep batchsize_train num_processes_sampling
        typeOfLearningRateSchedule whenDecreasingDivideLrBy numEpochsToWaitBeforeLoweringLr
        min_incr_of_val_acc_considered predefinedSchedule paramsForExpSchedForLrAndMom
        augm_img_prms_tr augm_sample_prms_tr performValidationOnSamplesThroughoutTraining
        performFullInferenceOnValidationImagesEveryFewEpochs dataframe_val channelsValidation
        gtLabelsValidation roiMasksValidation numberValidationSegmentsLoadedOnGpuPerSubep
        batchsize_val_samples typeOfSamplingForVal proportionOfSamplesToExtractPerCategoryVal
        weightedMapsForSamplingEachCategoryVal numberOfEpochsBetweenFullInferenceOnValImages
        batchsize_val_whole namesForPredictionsPerCaseVal saveSegmentationVal
        saveProbMapsForEachClassVal suffixForSegmAndProbsDictVal saveIndividualFmsVal
        minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathwayVal
        minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathwayVal
        minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathwayVal
        learningRate sgd0orAdam1orRms2 classicMom0OrNesterov1 momentumValue
        momNonNorm0orNormalized1 b1Adam b2Adam epsilonAdam rhoRms epsilonRms losses_and_weights
        reweight_classes_in_cost L1_reg L2_reg layersToFreezeNormal layersToFreezeSubsampled
        layersToFreezeFC run_input_checks padInputImagesBool norm_verbosity_lvl norm_zscore_prms
        reflectImagesPerAxis performIntAugm sampleIntAugmShiftWithMuAndStd
        sampleIntAugmMultiWithMuAndStd augm_params_tr augmentation_sample augmentation_image
        useDefaultTrainingSamplingFromGtAndRoi
        useDefaultUniformValidationSampling stable0orAuto1orPredefined2orExponential3LrSchedule
        minIncreaseInValidationAccuracyThatResetsWaiting exponentialSchedForLrAndMom
        saveAllFmsIn4DimImage saveAllFmsIn4DimImageVal percentOfSamplesToExtractPositiveTrain
        percentOfSamplesToExtractPositiveVal weightedMapsForPosSamplingTrain
        weightedMapsForNegSamplingTrain weightedMapsForPosSamplingVal
        weightedMapsForNegSamplingVal samplingMasksAreProbMapsTrain samplingMasksAreProbMapsVal
        tensorboardLog cutoff_percent cutoff_std cutoff_mean csvTraining csvValidation
    """,
    "test": """
        sessionName folderForOutput cnnModelFilePath dataframe channels namesForPredictionsPerCase
        roiMasks gtLabels saveSegmentation saveProbMapsForEachClass suffixForSegmAndProbsDict
        batchsize saveIndividualFms minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway
        minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway
        minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway run_input_checks
        padInputImagesBool norm_verbosity_lvl norm_zscore_prms saveAllFmsIn4DimImage csvTest
        cutoff_percent cutoff_std cutoff_mean
    """,
}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into the current folder, so that messages begin with its bare name."""
    monkeypatch.chdir(tmp_path)

    def write(text):
        file = tmp_path.__class__("some.cfg")
        file.write_text(text)
        return file

    return write


@pytest.fixture
def loaded(write):
    """The config of a minimal file of some kind with more lines."""
    return lambda kind, more="": load(MODELS[kind], write(BEGINNINGS[kind] + more)).config


@pytest.fixture
def warnings(write):
    """What is said about a minimal file of some kind with more lines."""
    return lambda kind, more: load(MODELS[kind], write(BEGINNINGS[kind] + more)).warnings


@pytest.fixture
def complaints(write):
    """Every problem of a file, one a line."""

    def complaints(kind, text):
        with pytest.raises(DeepsegError) as refusal:
            load(MODELS[kind], write(text))
        return str(refusal.value).splitlines()

    return complaints


# The tables


@pytest.mark.parametrize("kind", MODELS)
def test_every_key_that_deepmedic_ever_had_is_in_the_table(kind):
    actual = {"allow_missing_classes"} if kind == "train" else set()
    assert {row.name for row in KEYS[kind]} - actual == set(ALL_KEYS[kind].split())


STRANGE = ("-1", "0.5", "'word'", "[[]]", "[None, 'a']", "{'a': 1}")


@pytest.mark.parametrize("kind", MODELS)
def test_whatever_stands_behind_a_key_is_read_or_refused(write, kind):
    switches = "".join(
        f"{switch} = True\n"
        for switch in (
            "useSubsampledPathway",
            "performValidationOnSamplesThroughoutTraining",
            "saveIndividualFmsVal",
            "saveIndividualFms",
            "performIntAugm",
        )
        if switch in ALL_KEYS[kind].split()
    )
    for row in KEYS[kind]:
        for value in STRANGE:
            remaining = [
                line
                for line in (BEGINNINGS[kind] + switches).splitlines()
                if not line.startswith(f"{row.name} ")
            ]
            file = write("\n".join([*remaining, f"{row.name} = {value}"]))
            with suppress(DeepsegError):  # any other exception fails the test
                load(MODELS[kind], file)


@pytest.mark.parametrize("kind", MODELS)
def test_every_key_of_ours_in_a_table_exists_in_the_models(kind):
    unknown = [
        row.path
        for row in KEYS[kind]
        if isinstance(row, Key) and row.path and not is_key_of(SchemaType(MODELS[kind]), row.path)
    ]
    assert unknown == []


def is_key_of(kind, path):
    if not path:
        return True
    first, _, rest = path.partition(".")
    return any(
        first in part.fields and is_key_of(schema_type_of_field(part.fields[first]), rest)
        for part in (kind, *kind.members)
    )


@pytest.mark.parametrize("kind", MODELS)
def test_old_keys_lead_to_keys_of_the_table(kind):
    names = {row.name for row in KEYS[kind] if isinstance(row, Key)}
    assert {row.new for row in KEYS[kind] if isinstance(row, OldKey)} <= names


# Model files


def test_a_minimal_model_has_deepmedics_own_defaults(write):
    document = translate(read_cfg(write(MODEL)), "model").document
    assert document.values == {
        "name": "deepmedic",
        "classes": ["background", "class1", "class2"],
        "channels": ["channel1", "channel2"],
        "normal": {
            "feature_maps": [4, 5, 6],
            "kernels": [[3, 3, 1], [3, 3, 3], [5, 3, 3]],
        },
        "fc": {"dropout": [0.5]},
        "segments": {"train": [25, 23, 21], "validation": [9, 7, 5]},
        "batch_norm": {"statistics": "window", "length": 60, "epsilon": 1.17549435e-38},
    }


@pytest.mark.parametrize(
    ("more", "block", "key", "expected"),
    [
        ("padTypePerLayerNormal = [None, 'none', 'VALID']", "normal", "padding", ("none",) * 3),
        ("padTypePerLayerNormal = ['valid', 'zero', 'ZERO']", "normal", "padding",
         ("none", "zero", "zero")),
        ("padTypePerLayerNormal = ['SAME', 'mirror', 'MIRROR']", "normal", "padding",
         ("zero", "mirror", "mirror")),
        ("layersWithResidualConnNormal = [2, 3]", "normal", "residuals", (2, 3)),
        ("lowerRankLayersNormal = [1]", "normal", "low_rank", (1,)),
        ("dropoutRatesNormal = []", "normal", "dropout", 0),
        ("dropoutRatesNormal = [0, 0.1, 0.2]", "normal", "dropout", (0, 0.1, 0.2)),
        ("numberFMsPerLayerFC = [7, 8]", "fc", "dropout", (0, 0.5, 0.5)),
        ("numberFMsPerLayerFC = [7]\nkernelDimFor1stFcLayer = [3,3,3]", "fc", "kernels",
         ((3, 3, 3), (1, 1, 1))),
        ("numberFMsPerLayerFC = [7]\nkernelDimFor1stFcLayer = [3,3,3]", "fc", "padding",
         ("mirror", "none")),
        ("kernelDimFor1stFcLayer = [3,3,1]", "fc", "kernels", ((3, 3, 1),)),
        ("kernelDimPerLayerFC = [[3,1,5]]", "segments", "validation", (11, 7, 9)),
        ("kernelDimPerLayerFC = [[3,1,5]]\npadTypePerLayerFC = ['mirror']", "segments",
         "validation", (9, 7, 5)),
        ("segmentsDimVal = [17,15,13]", "segments", "validation", (17, 15, 13)),
        ("segmentsDimInference = [45,44,43]", "segments", "inference", (45, 44, 43)),
        ("convWeightsInit = ['fanIn', 3]", "initialisation", "scale", 3),
        ("convWeightsInit = ['normal', 0.01]", "initialisation", "deviation", 0.01),
        ("rollAverageForBNOverThatManyBatches = 20", "batch_norm", "length", 20),
    ],
)  # fmt: skip
def test_a_key_of_a_model_file_in_our_words(loaded, more, block, key, expected):
    assert getattr(getattr(loaded("model", more), block), key) == expected


def test_no_batches_to_average_over_means_no_batch_normalisation(loaded):
    assert loaded("model", "rollAverageForBNOverThatManyBatches = 0").batch_norm == "none"


def test_pathways_are_centred_unless_weights_are_imported(loaded):
    assert loaded("model").context_alignment == "centred"


def test_subsampled_pathways_mirror_kernels_and_residuals_but_not_padding_and_dropout(loaded):
    config = loaded(
        "model",
        """
useSubsampledPathway = True
layersWithResidualConnNormal = [2]
padTypePerLayerNormal = ['zero', None, None]
dropoutRatesNormal = [0.1, 0.2, 0.3]
""",
    )
    normal, sub = config.pathways
    assert sub.factor == (3, 3, 3)
    assert (sub.feature_maps, sub.kernels) == (normal.feature_maps, normal.kernels)
    assert sub.residuals == {2}
    assert (sub.padding, sub.dropout) == (("none",) * 3, (0, 0, 0))


def test_the_factors_say_how_many_pathways_there_are_and_the_last_list_serves_the_rest(loaded):
    config = loaded(
        "model",
        """
useSubsampledPathway = True
subsampleFactor = [[3,3,1], [5,5,3], [7,7,5]]
numberFMsPerLayerSubsampled = [[1,2,3], [7,8,9]]
""",
    )
    _, *subs = config.pathways
    assert [sub.factor for sub in subs] == [(3, 3, 1), (5, 5, 3), (7, 7, 5)]
    assert [sub.feature_maps for sub in subs] == [(1, 2, 3), (7, 8, 9), (7, 8, 9)]


def test_one_factor_needs_no_list_of_lists(loaded):
    more = "useSubsampledPathway = True\nsubsampleFactor = [5,3,1]"
    assert loaded("model", more).pathways[1].factor == (5, 3, 1)


def test_extra_lists_of_feature_maps_are_ignored_with_a_warning(write):
    more = "useSubsampledPathway = True\nnumberFMsPerLayerSubsampled = [[1,2,3], [7,8,9]]"
    result = load(ModelConfig, write(MODEL + more))
    assert result.config.pathways[1].feature_maps == (1, 2, 3)
    assert result.warnings == (
        "some.cfg: numberFMsPerLayerSubsampled has more lists (2) than subsampleFactor has "
        "entries (1); the last ones are ignored",
    )


def test_without_the_switch_there_is_no_subsampled_pathway(write):
    result = load(ModelConfig, write(MODEL + "subsampleFactor = [[5,5,5]]"))
    assert result.config.subsampled is None
    assert result.warnings == (
        "some.cfg: keys that are not used, given the other keys of the file: subsampleFactor",
    )


def test_optimiser_and_batch_sizes_of_old_model_files_are_named(warnings):
    assert warnings("model", "batchSizeTrain = 10\nlearningRate = 0.001\nbatchSizeInfer = 5") == (
        "some.cfg: keys that mean nothing here and are ignored: "
        "batchSizeInfer (say batchsize in the test file)",
        "some.cfg: keys about training, which only train files of 0.7.2 and before take from here: "
        "batchSizeTrain, learningRate",
    )


@pytest.mark.parametrize(
    ("old", "activation", "initialisation"),
    [(0, "relu", Normal(method="normal", deviation=0.01)), (1, "prelu", FanIn(scale=2))],
)
def test_the_first_versions_numbered_activations_and_initialisations(
    loaded, old, activation, initialisation
):
    more = f"relu0orPrelu1 = {old}\ninitializeClassic0orDelving1 = {old}"
    config = loaded("model", more)
    assert (config.activation, config.initialisation) == (activation, initialisation)


def test_keys_without_a_translation_say_what_to_use(complaints):
    key = "indicesOfLayersWithResidualConnectionsPerPathType"
    assert complaints("model", MODEL + f"{key} = [[3]]") == [
        f"[config-old-key] some.cfg:6 {key}: got the key {key!r} of an old version; expected a key "
        "of DeepMedic 0.7 to 0.8.4; fix: use layersWithResidualConnNormal, …Subsampled and …FC, "
        "which count from 1"
    ]


def test_an_old_and_a_new_name_together_are_refused(complaints):
    more = "kernelDimPerLayerFC = [[3,3,3]]\nkernelDimFor1stFcLayer = [3,3,3]"
    assert complaints("model", MODEL + more) == [
        "[config-duplicate-key] some.cfg:7 kernelDimFor1stFcLayer: got both "
        "'kernelDimFor1stFcLayer' and 'kernelDimPerLayerFC'; expected one of the two, which mean "
        "the same; fix: remove 'kernelDimFor1stFcLayer', the older name"
    ]


def test_a_segment_that_is_too_small_is_told_with_the_users_key_and_line(complaints):
    assert complaints("model", MODEL.replace("[25,23,21]", "[25,6,21]")) == [
        "[segment-too-small] some.cfg:5 segmentsDimTrain: got segmentsDimTrain of 25 x 6 x 21 "
        "voxels; expected at least 9 x 7 x 5, the receptive field; fix: enlarge the segment along "
        "Y or use fewer or smaller kernels"
    ]


def test_an_empty_model_file_misses_all_required_keys_at_once(complaints):
    expected = (
        "numberOfOutputClasses",
        "numberOfInputChannels",
        "numberFMsPerLayerNormal",
        "kernelDimPerLayerNormal",
        "segmentsDimTrain",
    )
    assert complaints("model", "# nothing\n") == [
        f"[config-missing-key] some.cfg: got no key {key!r}; expected {key!r}; "
        f"fix: add {key!r} to the file"
        for key in expected
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("numberOfOutputClasses = 1",
         "got 1; expected a whole number from 2 to 1000; fix: change this value"),
        ("numberOfOutputClasses = 10**9",
         "got 1000000000; expected a whole number from 2 to 1000; fix: change this value"),
        ("numberOfInputChannels = 'two'",
         "got 'two'; expected a whole number from 1 to 1000; fix: change this value"),
        ("segmentsDimTrain = [25, 25]",
         "got [25, 25]; expected a whole number from 1 to 1000000, or a list of 3 of these; "
         "fix: change this value"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_at_its_line(complaints, line, expected):
    key = line.split(" = ", maxsplit=1)[0]
    remaining = "".join(f"{item}\n" for item in MODEL.splitlines() if not item.startswith(key))
    assert complaints("model", remaining + line) == [f"[config-value] some.cfg:5 {key}: {expected}"]


def test_an_unknown_padding_is_refused_with_the_known_ones(complaints):
    (problem,) = complaints("model", MODEL + "padTypePerLayerNormal = [None, 'miror', None]")
    assert problem == (
        "[config-value] some.cfg:6 padTypePerLayerNormal: got 'miror'; expected one of: none, "
        "None, VALID, valid, zero, ZERO, SAME, mirror, MIRROR; "
        "fix: write one of these; did you mean 'mirror'?"
    )


# Train files


def test_a_minimal_train_file_has_deepmedics_own_defaults(write):
    document = translate(read_cfg(write(TRAIN)), "train").document
    assert document.values == {
        "name": "trainSession",
        "output": "out",
        "training": {
            "cases": {
                "channels": ["flair.cfg", "t1.cfg"],
                "labels": "labels.cfg",
                "allow_missing_classes": True,
            },
            "batch_size": 8,
        },
        "workers": 0,
        "schedule": {"type": "poly"},
        "optimiser": {"name": "rmsprop", "normalised_momentum": True},
        "preparation": {"z_score": "none"},
    }


def test_validation_has_deepmedics_own_defaults(write):
    more = """
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
"""
    document = translate(read_cfg(write(TRAIN + VALIDATION + more)), "train").document
    assert document.values["validation"] == {
        "cases": {"channels": ["v_flair.cfg", "v_t1.cfg"], "labels": "v_labels.cfg"},
        "samples": {"segments": 3000, "sampling": {"type": "uniform"}},
        "volumes": {"every": 1, "save": {"segmentation": True, "probabilities": True}},
    }


@pytest.mark.parametrize(
    ("more", "path", "expected"),
    [
        ("typeOfSamplingForTraining = 0", "training.sampling.type", "foreground_background"),
        ("typeOfSamplingForTraining = 1", "training.sampling.type", "uniform"),
        ("typeOfSamplingForTraining = 2", "training.sampling.type", "whole_image"),
        ("typeOfSamplingForTraining = 3", "training.sampling.type", "per_class"),
        ("proportionOfSamplesToExtractPerCategoryTraining = [1, 2, 3]",
         "training.sampling.proportions", (1, 2, 3)),
        ("numberTrainingSegmentsLoadedOnGpuPerSubep = 77", "training.segments_per_subepoch", 77),
        ("numOfCasesLoadedPerSubepoch = 7", "training.cases_per_subepoch", 7),
        ("num_processes_sampling = -1", "workers", 0),
        ("num_processes_sampling = 3", "workers", 3),
        ("numberOfEpochs = 9", "epochs", 9),
        ("numberOfSubepochs = 4", "subepochs", 4),
        ("tensorboard_log = True", "tensorboard", True),
        ("typeOfLearningRateSchedule = 'stable'", "schedule.type", "constant"),
        ("typeOfLearningRateSchedule = 'predef'\npredefinedSchedule = [2, 5]",
         "schedule.epochs", (2, 5)),
        ("typeOfLearningRateSchedule = 'predef'\npredefinedSchedule = [2]\n"
         "whenDecreasingDivideLrBy = 3", "schedule.divide_by", 3),
        ("typeOfLearningRateSchedule = 'poly'", "schedule.wait", None),
        ("typeOfLearningRateSchedule = 'poly'\nnumEpochsToWaitBeforeLoweringLr = 10",
         "schedule.wait", 10),
        ("typeOfLearningRateSchedule = 'expon'", "schedule.final_learning_rate", None),
        ("typeOfLearningRateSchedule = 'expon'", "schedule.final_momentum", 0.9),
        ("typeOfLearningRateSchedule = 'expon'\nparamsForExpSchedForLrAndMom = [1e-5, 0.8]",
         "schedule.final_learning_rate", 1e-5),
        ("typeOfLearningRateSchedule = 'expon'\nparamsForExpSchedForLrAndMom = [1e-5, 0.8]",
         "schedule.final_momentum", 0.8),
        ("stable0orAuto1orPredefined2orExponential3LrSchedule = 4", "schedule.type", "poly"),
        ("stable0orAuto1orPredefined2orExponential3LrSchedule = 3\n"
         "exponentialSchedForLrAndMom = [12, 0.5, 0.9]\nlearningRate = 0.02\n"
         "numEpochsToWaitBeforeLoweringLr = 3", "schedule.wait", 12),
        ("stable0orAuto1orPredefined2orExponential3LrSchedule = 3\n"
         "exponentialSchedForLrAndMom = [12, 0.5, 0.9]\nlearningRate = 0.02",
         "schedule.final_learning_rate", 0.01),
        ("sgd0orAdam1orRms2 = 0", "optimiser.name", "sgd"),
        ("sgd0orAdam1orRms2 = 1\nb1Adam = 0.8\nb2Adam = 0.9", "optimiser.beta1", 0.8),
        ("sgd0orAdam1orRms2 = 1\nb1Adam = 0.8\nb2Adam = 0.9", "optimiser.beta2", 0.9),
        ("sgd0orAdam1orRms2 = 1\nepsilonAdam = 1e-7", "optimiser.epsilon", 1e-7),
        ("rhoRms = 0.7", "optimiser.rho", 0.7),
        ("epsilonRms = 10**(-5)", "optimiser.epsilon", 1e-5),
        ("learningRate = 0.5", "optimiser.learning_rate", 0.5),
        ("momentumValue = 0.5", "optimiser.momentum", 0.5),
        ("classicMom0OrNesterov1 = 0", "optimiser.nesterov", False),
        ("momNonNorm0orNormalized1 = 0", "optimiser.normalised_momentum", False),
        ("losses_and_weights = {'xentr': None, 'dsc': 2}", "loss.cross_entropy", 0),
        ("losses_and_weights = {'xentr': None, 'dsc': 2}", "loss.dice", 2),
        ("losses_and_weights = {'iou': 3}", "loss.cross_entropy", 0),
        ("losses_and_weights = {'iou': 3}", "loss.iou", 3),
        ("L1_reg = 0.1", "loss.l1", 0.1),
        ("L2_reg = 0.2", "loss.l2", 0.2),
        ("reweight_classes_in_cost = {'type': None, 'prms': None}", "loss.class_weights", None),
        ("reweight_classes_in_cost = {'type': 'freq', 'prms': None, 'schedule': [3, 7]}",
         "loss.class_weights.type", "frequency"),
        ("reweight_classes_in_cost = {'type': 'freq', 'prms': None, 'schedule': [3, 7]}",
         "loss.class_weights.fade", (3, 7)),
        ("reweight_classes_in_cost = {'type': 'per_c', 'prms': [1, 2, 5]}",
         "loss.class_weights.weights", (1, 2, 5)),
        ("layersToFreezeNormal = [1, 3]", "freeze.layers",
         ("normal.1", "normal.3", "sub*.1", "sub*.3")),
        ("layersToFreezeNormal = [1]\nlayersToFreezeSubsampled = []\nlayersToFreezeFC = [2]",
         "freeze.layers", ("normal.1", "fc.2")),
        ("layersToFreezeSubsampled = [4]", "freeze.layers", ("sub*.4",)),
        ("augm_img_prms_tr = {'affine': None}", "training.augmentation.affine", None),
        ("augm_img_prms_tr = {'affine': {}}", "training.augmentation.affine.probability", 0),
        ("augm_img_prms_tr = {'affine': {'prob': 0.7, 'max_rot_xyz': (9, 8, 9)}}",
         "training.augmentation.affine.max_rotation", (9, 8, 9)),
        ("augm_img_prms_tr = {'affine': {'prob': 0.7, 'max_scaling': 0.2}}",
         "training.augmentation.affine.max_scaling", 0.2),
        ("augm_sample_prms_tr = {'hist_dist': {'shift': {'mu': 1, 'std': 2}, 'scale': None}}",
         "training.augmentation.intensity.shift.deviation", 2),
        ("augm_sample_prms_tr = {'hist_dist': {'shift': {'mu': 1, 'std': 2}, 'scale': None}}",
         "training.augmentation.intensity.scale.mean", 1),
        ("augm_sample_prms_tr = {'hist_dist': None, 'reflect': (0.5, 0.1, 0)}",
         "training.augmentation.reflect", (0.5, 0.1, 0)),
        ("augm_sample_prms_tr = {'hist_dist': None, 'reflect': None}",
         "training.augmentation.reflect", (0, 0, 0)),
        ("augm_sample_prms_tr = {'rotate90': {'xy': {'0': 0.8, '90': 0.1, '270': 0.2}, "
         "'yz': {'0': 0, '90': 0, '180': 0, '270': 0}, 'xz': None}}",
         "training.augmentation.rotate90.xy", (0.8, 0.1, 0, 0.2)),
        ("augm_sample_prms_tr = {'rotate90': {'xy': {'0': 0.8, '90': 0.1, '270': 0.2}, "
         "'yz': {'0': 0, '90': 0, '180': 0, '270': 0}, 'xz': None}}",
         "training.augmentation.rotate90.yz", (1, 0, 0, 0)),
        ("augm_sample_prms_tr = {'rotate90': {'xy': {'0': 0}}}",
         "training.augmentation.rotate90", None),
        ("reflectImagesPerAxis = [1, False, True]", "training.augmentation.reflect", (0.5, 0, 0.5)),
        ("performIntAugm = True\nsampleIntAugmShiftWithMuAndStd = [0.1, 0.2]",
         "training.augmentation.intensity.shift.mean", 0.1),
        ("performIntAugm = True\nsampleIntAugmMultiWithMuAndStd = [0.9, 0.2]",
         "training.augmentation.intensity.scale.mean", 0.9),
        ("performIntAugm = False\nsampleIntAugmShiftWithMuAndStd = [0.1, 0.2]",
         "training.augmentation.intensity", None),
        ("norm_zscore_prms = {'apply_to_all_channels': False, 'cutoff_percents': [5, 95]}",
         "preparation.z_score", "none"),
        ("norm_zscore_prms = {'apply_to_all_channels': True, 'cutoff_percents': [5, 95]}",
         "preparation.z_score.cutoff_percentiles", (5, 95)),
        ("norm_zscore_prms = {'apply_to_all_channels': True, 'cutoff_times_std': [2, 3]}",
         "preparation.z_score.cutoff_deviations", (2, 3)),
        ("norm_zscore_prms = {'apply_to_all_channels': True, 'cutoff_below_mean': True}",
         "preparation.z_score.above_mean", True),
        ("norm_zscore_prms = {'apply_to_all_channels': True}", "preparation.z_score.channels",
         None),
        ("norm_zscore_prms = {'apply_per_channel': [True, True]}", "preparation.z_score.channels",
         None),
        ("norm_zscore_prms = {'apply_per_channel': [False, True, True]}",
         "preparation.z_score.channels", ("channel2", "channel3")),
        ("norm_zscore_prms = {'apply_per_channel': [False, False]}", "preparation.z_score", "none"),
    ],
)  # fmt: skip
def test_a_key_of_a_train_file_in_our_words(loaded, more, path, expected):
    assert at(loaded("train", more), path) == expected


def at(config, path):
    for step in path.split("."):
        config = getattr(config, step)
    return config


@pytest.mark.parametrize(
    ("more", "path", "expected"),
    [
        ("numOfCasesLoadedPerSubepoch = 7", "samples.cases", 7),
        ("numberValidationSegmentsLoadedOnGpuPerSubep = 8", "samples.segments", 8),
        ("batchsize_val_samples = 9", "samples.batch_size", 9),
        ("typeOfSamplingForVal = 0\nproportionOfSamplesToExtractPerCategoryVal = [1, 3]",
         "samples.sampling.proportions", (1, 3)),
        ("numberOfEpochsBetweenFullInferenceOnValImages = 6", "volumes.every", 6),
        ("batchsize_val_whole = 11", "volumes.batch_size", 11),
        ("saveSegmentationVal = False", "volumes.save.segmentation", False),
        ("saveProbMapsForEachClassVal = [True, True]", "volumes.save.probabilities", True),
        ("saveProbMapsForEachClassVal = [False, False]", "volumes.save.probabilities", False),
        ("saveProbMapsForEachClassVal = [False, True, False, True]",
         "volumes.save.probabilities", (1, 3)),
        ("suffixForSegmAndProbsDictVal = {'segm': 'S'}", "volumes.save.segmentation_suffix", "S"),
        ("suffixForSegmAndProbsDictVal = {'segm': 'S'}", "volumes.save.probability_suffix",
         "ProbMapClass"),
    ],
)  # fmt: skip
def test_a_key_about_validation_in_our_words(loaded, more, path, expected):
    switches = """
performValidationOnSamplesThroughoutTraining = True
performFullInferenceOnValidationImagesEveryFewEpochs = True
"""
    assert at(loaded("train", VALIDATION + switches + more).validation, path) == expected


def test_the_parts_of_validation_are_switched_one_by_one(loaded):
    only_volumes = "performFullInferenceOnValidationImagesEveryFewEpochs = True\n"
    only_samples = "performValidationOnSamplesThroughoutTraining = True\n"
    volumes = loaded("train", VALIDATION + only_volumes).validation
    samples = loaded("train", VALIDATION + only_samples).validation
    assert (volumes.samples, volumes.volumes.every) == (None, 1)
    assert (samples.samples.segments, samples.volumes) == (3000, None)
    assert loaded("train", VALIDATION).validation is None


def test_waiting_for_a_plateau_is_counted_in_whole_epochs(loaded):
    more = """
typeOfLearningRateSchedule = 'auto'
numEpochsToWaitBeforeLoweringLr = 4.0
min_incr_of_val_acc_considered = 0.1
performValidationOnSamplesThroughoutTraining = True
"""
    schedule = loaded("train", VALIDATION + more).schedule
    assert (schedule.patience, schedule.min_improvement) == (4, 0.1)


def test_a_table_replaces_the_lists_which_are_named_in_a_warning(write):
    more = "dataframe_train = 'cases.csv'\nroiMasksTraining = 'roi.cfg'"
    result = load(TrainConfig, write(TRAIN + more))
    assert result.config.training.cases.table.name == "cases.csv"
    assert result.config.training.cases.channels is None
    assert result.warnings == (
        "some.cfg: keys that are not used, given the other keys of the file: "
        "channelsTraining, gtLabelsTraining, roiMasksTraining",
    )


def test_the_model_path_stays_as_it_is_but_counts_from_the_file(loaded, tmp_path):
    config = loaded("train", "cnnModelFilePath = '../x.final.model.ckpt'")
    assert config.model == tmp_path.parent / "x.final.model.ckpt"


def test_keys_that_mean_nothing_are_named_in_one_warning(warnings):
    more = """
run_input_checks = False
padInputImagesBool = False
norm_verbosity_lvl = 1
saveAllFmsIn4DimImageVal = True
"""
    assert warnings("train", more) == (
        "some.cfg: keys that mean nothing here and are ignored: "
        "run_input_checks (the input is always checked), "
        "padInputImagesBool (images are always padded, so that every voxel is predicted), "
        "norm_verbosity_lvl (the log has one level of detail), "
        "saveAllFmsIn4DimImageVal (feature maps are written one by one)",
    )


@pytest.mark.parametrize(
    "line",
    [
        "padInputImagesBool = True",
        "run_input_checks = True",
        "norm_verbosity_lvl = 0",
        "saveAllFmsIn4DimImageVal = False",
        "augm_img_prms_tr = {'affine': {'prob': 1, 'interp_order_imgs': 1, 'interp_order_lbls': 0,"
        " 'interp_order_roi': 0, 'interp_order_wmaps': 1, 'seed': None, 'cval': 0}}",
    ],
)
def test_what_happens_anyway_needs_no_warning(warnings, line):
    assert warnings("train", line) == ()


def test_keys_of_another_choice_are_named_unless_they_say_nothing(warnings):
    more = """
sgd0orAdam1orRms2 = 1
rhoRms = 0.9
typeOfLearningRateSchedule = 'stable'
predefinedSchedule = [3]
proportionOfSamplesToExtractPerCategoryTraining = []
typeOfSamplingForTraining = 1
"""
    assert warnings("train", more) == (
        "some.cfg: keys that are not used, given the other keys of the file: "
        "predefinedSchedule, rhoRms",
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("typeOfSamplingForTraining = 2",
         "typeOfSamplingForTraining = 2 samples the whole image here, as named; DeepMedic stayed "
         "in the ROI"),
        ("typeOfLearningRateSchedule = 'expon'\nparamsForExpSchedForLrAndMom = [1./256., 0.9]",
         "the learning rate rises from 0.001 to 0.00390625: the first entry of "
         "paramsForExpSchedForLrAndMom is a rate, not a factor"),
        ("augm_img_prms_tr = {'affine': {'prob': 1, 'seed': 5, 'interp_order_imgs': 3}}",
         "entries of augm_img_prms_tr that are ignored: seed, interp_order_imgs"),
        ("augm_img_prms_tr = {'affine': {'prob': 1, 'max_rot_xyz': [9, 8, 7]}}",
         "max_rot_xyz turns about X, Y and Z here, as named; DeepMedic turned about Z by the first "
         "angle and about X by the last"),
    ],
)  # fmt: skip
def test_what_means_something_else_here_is_said(warnings, more, expected):
    assert warnings("train", more) == (f"some.cfg: {expected}",)


def test_an_old_exponential_schedule_of_other_than_numbers_is_refused(complaints):
    more = """\
stable0orAuto1orPredefined2orExponential3LrSchedule = 3
exponentialSchedForLrAndMom = [12, 'half', 0.9]
"""
    assert complaints("train", TRAIN + more) == [
        "[config-value] some.cfg:6 exponentialSchedForLrAndMom: got [12, 'half', 0.9]; "
        "expected a list of 3 numbers; fix: change this value"
    ]


def test_two_settings_that_exclude_each_other_are_both_named(complaints):
    more = "norm_zscore_prms = {'apply_to_all_channels': True, 'apply_per_channel': [True, False]}"
    assert complaints("train", TRAIN + more) == [
        "[config-value] some.cfg:5 norm_zscore_prms: got apply_to_all_channels True and "
        "apply_per_channel not None; expected only one of apply_to_all_channels and "
        "apply_per_channel; fix: remove one of the two"
    ]


def test_unknown_keys_and_entries_get_a_proposal(complaints):
    more = """\
batchsizetrain = 10
losses_and_weights = {'xent': 1}
segmentsDimTrain = [9,9,9]
norm_zscore_prms = {'apply_to_all': True}
"""
    assert complaints("train", TRAIN + more) == [
        "[config-unknown-key] some.cfg:5 batchsizetrain: got the unknown key 'batchsizetrain'; "
        "expected a key of DeepMedic's train files; "
        "fix: correct or remove it; did you mean 'batchsize_train'?",
        "[config-unknown-key] some.cfg:6 losses_and_weights: got the unknown entry 'xent'; "
        "expected one of 'xentr', 'dsc', 'iou'; fix: correct or remove it; did you mean 'xentr'?",
        "[config-unknown-key] some.cfg:7 segmentsDimTrain: got the unknown key 'segmentsDimTrain'; "
        "expected a key of DeepMedic's train files; fix: move it to the model file",
        "[config-unknown-key] some.cfg:8 norm_zscore_prms: got the unknown entry 'apply_to_all'; "
        "expected one of 'apply_to_all_channels', 'apply_per_channel', 'cutoff_percents', "
        "'cutoff_times_std', 'cutoff_below_mean'; "
        "fix: correct or remove it; did you mean 'apply_to_all_channels'?",
    ]


def test_problems_of_both_vocabularies_come_together_in_the_order_of_each(complaints):
    text = TRAIN.replace("batchsize_train = 8", "batchsize_train = 0")
    problems = complaints("train", text + "numberOfEpoch = 3\nrhoRms = 2")
    assert [problem.split(": got")[0] for problem in problems] == [
        "[config-unknown-key] some.cfg:5 numberOfEpoch",
        "[config-value] some.cfg:4 batchsize_train",
        "[config-value] some.cfg:6 rhoRms",
    ]


def test_every_entry_of_a_joint_list_points_to_the_key_it_came_from(write):
    more = "layersToFreezeFC = [1]\nlayersToFreezeNormal = [2, 3]\nlayersToFreezeSubsampled = [4]"
    document = translate(read_cfg(write(TRAIN + more)), "train").document
    layers = document.values["freeze"]["layers"]
    assert {layer: document.place(("freeze", "layers", i)) for i, layer in enumerate(layers)} == {
        "normal.2": "some.cfg:6 layersToFreezeNormal",
        "normal.3": "some.cfg:6 layersToFreezeNormal",
        "sub*.4": "some.cfg:7 layersToFreezeSubsampled",
        "fc.1": "some.cfg:5 layersToFreezeFC",
    }


def test_of_two_keys_for_one_thing_the_later_of_the_table_wins_and_is_blamed(write):
    more = "augm_sample_prms_tr = {'reflect': (0.5, 0, 0)}\nreflectImagesPerAxis = [0, 1, 1]"
    document = translate(read_cfg(write(TRAIN + more)), "train").document
    assert document.values["training"]["augmentation"] == {"reflect": [0.0, 0.5, 0.5]}
    place = document.place(("training", "augmentation", "reflect"))
    assert place == "some.cfg:6 reflectImagesPerAxis"


# Names of earlier keys


def test_values_may_refer_to_names_that_are_no_keys(write, tmp_path):
    more = """
root = "/data"
n = 3
lists = root + "/lists"
channelsValidation = [lists + "/flair.cfg", f"{root}/{n}.cfg"]
"""
    file = write(TRAIN + more)
    translation = translate(read_cfg(file), "train")
    assert translation.problems == ()
    assert translation.document.values.get("root") is None
    config = load(
        TrainConfig,
        write(
            TRAIN.replace("labels.cfg", "x")
            + """
root = "/data"
n = 3
gtLabelsValidation = root + "/labels.cfg"
channelsValidation = [root + "/flair.cfg", f"{root}/{n}.cfg"]
performValidationOnSamplesThroughoutTraining = True
"""
        ),
    ).config
    assert [str(path) for path in config.validation.cases.channels] == [
        "/data/flair.cfg",
        "/data/3.cfg",
    ]


def test_a_name_that_nothing_refers_to_is_an_unknown_key(complaints):
    (problem,) = complaints("train", TRAIN + "root = '/data'")
    assert problem.startswith("[config-unknown-key] some.cfg:5 root: got the unknown key 'root';")


# Versions before 0.7.3

OLD_TRAIN = TRAIN.replace("batchsize_train = 8\n", "")
NO_BATCH = "batchsize_train = 10: write here what the model config has as batchSizeTrain"
AS_0_7_0 = "typeOfLearningRateSchedule = 'poly', the default of 0.7.0 (before it: 'expon')"
TWO_SORTS = "typeOfSamplingForTraining = 0 (around foreground and background, equally often)"


@pytest.fixture
def old(write):
    """Config and the one warning of an old train file."""

    def old(more):
        result = load(TrainConfig, write(OLD_TRAIN + more))
        (warning,) = result.warnings
        return result.config, warning.removeprefix("some.cfg: ")

    return old


def test_a_file_without_a_batch_size_is_old_and_samples_foreground_and_background(old):
    config, warning = old("typeOfLearningRateSchedule = 'stable'")
    assert config.training.sampling.type == "foreground_background"
    assert warning == (
        "read as a file of DeepMedic 0.7.2 or before, as it has no batchsize_train: "
        f"{TWO_SORTS}, {NO_BATCH}"
    )
    _, warning = old("")
    assert AS_0_7_0 in warning


def test_a_later_file_samples_per_class(loaded):
    assert loaded("train").training.sampling.type == "per_class"


@pytest.mark.parametrize(
    ("more", "sampling", "proportions"),
    [
        ("useDefaultTrainingSamplingFromGtAndRoi = True\ntypeOfSamplingForTraining = 3",
         "foreground_background", None),
        ("useDefaultTrainingSamplingFromGtAndRoi = False\ntypeOfSamplingForTraining = 3",
         "per_class", None),
        ("useDefaultTrainingSamplingFromGtAndRoi = False", "foreground_background", None),
        ("useDefaultTrainingSamplingFromGtAndRoi = False\n"
         "proportionOfSamplesToExtractPerCategoryTraining = [0.3, 0.7]",
         "foreground_background", (0.3, 0.7)),
        ("useDefaultTrainingSamplingFromGtAndRoi = True\n"
         "proportionOfSamplesToExtractPerCategoryTraining = [0.3, 0.7]",
         "foreground_background", None),
        ("typeOfSamplingForTraining = 3", "per_class", None),
    ],
)  # fmt: skip
def test_the_switch_of_old_versions_decides_if_further_keys_are_read(
    old, more, sampling, proportions
):
    config, _ = old(more)
    assert (config.training.sampling.type, config.training.sampling.proportions) == (
        sampling,
        proportions,
    )


def test_a_type_of_sampling_without_the_switch_is_not_read_where_the_version_is_certain(old):
    more = """
useDefaultUniformValidationSampling = True
performValidationOnSamplesThroughoutTraining = True
typeOfSamplingForTraining = 3
"""
    config, warning = old(VALIDATION + more)
    assert config.training.sampling.type == "foreground_background"
    assert TWO_SORTS in warning
    config, warning = old("typeOfSamplingForTraining = 3")
    assert config.training.sampling.type == "per_class"
    assert (
        "typeOfSamplingForTraining = 3 as written, although it was read beside "
        "useDefaultTrainingSamplingFromGtAndRoi = False only"
    ) in warning


def test_batch_sizes_and_optimiser_of_an_old_model_file_are_those_of_training(write, tmp_path):
    model = tmp_path / "M.cfg"
    model.write_text(MODEL + "batchSizeTrain = 6\nlearningRate = 0.5\nmomentumValue = 0.25\n")
    result = load(TrainConfig, write(OLD_TRAIN + "momentumValue = 0.75\n"), model_file=model)
    config = result.config
    assert config.training.batch_size == 6
    assert (config.optimiser.learning_rate, config.optimiser.momentum) == (0.5, 0.75)
    (warning,) = result.warnings
    assert warning.endswith(", batchsize_train = 6, learningRate = 0.5 of the model config")
    later = load(TrainConfig, write(TRAIN), model_file=model).config
    assert (later.training.batch_size, later.optimiser.learning_rate) == (8, 0.001)


TWO = "useSubsampledPathway = True\nsubsampleFactor = [[3,3,3], [5,5,5]]\n"


@pytest.mark.parametrize(
    ("more", "maps", "warning"),
    [
        pytest.param(
            "", [(4, 5, 6), (4, 5, 6)], None, id="from 0.7 on, the last list holds for all"
        ),
        pytest.param(
            "relu0orPrelu1 = 1",
            [(4, 5, 6), (2, 2, 3)],
            "as a file of 0.6.1 or before, as it has relu0orPrelu1: further pathways have half the "
            "feature maps of the one before: numberFMsPerLayerSubsampled = [[4, 5, 6], [2, 2, 3]]",
            id="Theano's halved it",
        ),
        pytest.param(
            "numberFMsPerLayerSubsampled = [8, 1, 6]\nkernelDimensionsSubsampled = [[3,3,1]]*3\n"
            "kernelDimPerLayerNormal = [[3,3,1]]*3",
            [(8, 1, 6), (4, 1, 3)],
            "as a file of 0.6.1 or before, as it has kernelDimensionsSubsampled: further pathways "
            "have half the feature maps of the one before: numberFMsPerLayerSubsampled = "
            "[[8, 1, 6], [4, 1, 3]]",
            id="of their own list too",
        ),
        pytest.param(
            "batchSizeTrain = 10",
            [(4, 5, 6), (4, 5, 6)],
            "as from 0.7 on, the last list holds for all pathways: numberFMsPerLayerSubsampled = "
            "[[4, 5, 6], [4, 5, 6]]; 0.6.1 and before (Theano) halved it: for those, write "
            "numberFMsPerLayerSubsampled = [[4, 5, 6], [2, 2, 3]]",
            id="either may have written it",
        ),
    ],
)
def test_feature_maps_of_pathways_without_a_list(write, more, maps, warning):
    base = MODEL if "kernelDimPerLayerNormal" not in more else MODEL.replace(
        "kernelDimPerLayerNormal = [[3,3,1], [3,3,3], [5,3,3]]\n", "")  # fmt: skip
    result = load(ModelConfig, write(base + TWO + more))
    assert [pathway.feature_maps for pathway in result.config.pathways[1:]] == maps
    first = [text.removeprefix("some.cfg: ") for text in result.warnings][:1]
    assert first == ([] if warning is None else [warning])


def test_lists_without_a_factor_were_pathways_in_theanos_versions(write):
    more = "relu0orPrelu1 = 1\nuseSubsampledPathway = True\n"
    lists = "numberFMsPerLayerSubsampled = [[4,5,6], [1,2,3], [7,7,7]]"
    result = load(ModelConfig, write(MODEL + more + lists))
    assert [pathway.factor[0] for pathway in result.config.pathways] == [1, 3, 5, 7]
    assert result.config.pathways[3].feature_maps == (7, 7, 7)
    assert "subsampleFactor = [[3, 3, 3], [5, 5, 5], [7, 7, 7]]" in result.warnings[0]


def test_uniform_validation_was_a_switch_as_well(old):
    switches = """
performValidationOnSamplesThroughoutTraining = True
typeOfSamplingForVal = 0
"""
    config, warning = old(VALIDATION + switches + "useDefaultUniformValidationSampling = True")
    assert config.validation.samples.sampling.type == "uniform"
    assert "typeOfSamplingForVal = 1 (uniform)" in warning
    config, _ = old(VALIDATION + switches + "useDefaultUniformValidationSampling = False")
    assert config.validation.samples.sampling.type == "foreground_background"


def test_intensities_change_by_the_old_defaults_where_no_numbers_are_given(write):
    result = load(TrainConfig, write(TRAIN + "performIntAugm = True"))
    changes = result.config.training.augmentation.intensity
    assert (changes.shift.mean, changes.shift.deviation) == (0.0, 0.05)
    assert (changes.scale.mean, changes.scale.deviation) == (1.0, 0.01)
    assert result.warnings == (
        "some.cfg: not given, and read as in DeepMedic 0.7.1: sampleIntAugmShiftWithMuAndStd = "
        "[0.0, 0.05], sampleIntAugmMultiWithMuAndStd = [1.0, 0.01]",
    )


def test_the_old_stable_schedule_lowered_the_rate_every_few_epochs(old):
    schedule = "stable0orAuto1orPredefined2orExponential3LrSchedule = 0\nnumberOfEpochs = 10\n"
    config, warning = old(schedule + "whenDecreasingDivideLrBy = 3.0")
    assert (config.schedule.type, config.schedule.epochs) == ("predefined", (3, 6, 9))
    assert config.schedule.divide_by == 3
    assert "the learning rate is divided every 3 epochs, as 'stable' meant" in warning
    config, _ = old(schedule + "numEpochsToWaitBeforeLoweringLr = 4")
    assert config.schedule.epochs == (4, 8)
    config, _ = old(schedule + "numEpochsToWaitBeforeLoweringLr = 0")
    assert config.schedule.type == "constant"


def test_the_old_automatic_schedule_had_defaults_of_its_own(old):
    more = """
stable0orAuto1orPredefined2orExponential3LrSchedule = 1
performValidationOnSamplesThroughoutTraining = True
"""
    schedule = old(VALIDATION + more)[0].schedule
    assert (schedule.patience, schedule.min_improvement) == (3, 0.0005)


def test_the_old_exponential_schedule_had_defaults_of_its_own(old):
    more = "stable0orAuto1orPredefined2orExponential3LrSchedule = 3\nnumberOfEpochs = 40"
    schedule = old(more + "\nlearningRate = 0.001")[0].schedule
    assert (schedule.wait, schedule.final_momentum) == (20, 0.9)
    assert schedule.final_learning_rate == pytest.approx(0.001 / 256)


@pytest.mark.parametrize("name", ["augm_params_tr", "augmentation_sample", "augmentation_image"])
def test_augmentation_under_its_earlier_names(loaded, name):
    value = "{'reflect': (0.5, 0, 0), 'affine': {'prob': 0.5}}"
    augmentation = loaded("train", f"{name} = {value}").training.augmentation
    assert augmentation.reflect == (0.5, 0, 0)
    assert augmentation.affine.probability == 0.5


# Test files


def test_a_minimal_test_file_has_deepmedics_own_defaults(write):
    document = translate(read_cfg(write(TEST)), "test").document
    assert document.values == {
        "name": "testSession",
        "output": "out",
        "cases": {"channels": ["flair.cfg", "t1.cfg"]},
        "save": {"segmentation": True, "probabilities": True},
    }


def test_feature_maps_are_saved_by_address_where_the_switch_is_on(loaded):
    lists = """
minMaxIndicesOfFmsToSaveFromEachLayerOfNormalPathway = [[], [0, 40], []]
minMaxIndicesOfFmsToSaveFromEachLayerOfSubsampledPathway = [[2, 3]]
minMaxIndicesOfFmsToSaveFromEachLayerOfFullyConnectedPathway = [[], [0, 150]]
"""
    assert loaded("test", lists).save.feature_maps == {}
    assert loaded("test", lists + "saveIndividualFms = True").save.feature_maps == {
        "normal.2": (0, 40),
        "sub*.1": (2, 3),
        "fc.2": (0, 150),
    }


def test_a_test_file_in_our_words(loaded, tmp_path):
    config = loaded(
        "test",
        """
sessionName = "mine"
cnnModelFilePath = "a.model.ckpt"
namesForPredictionsPerCase = "names.cfg"
roiMasks = "roi.cfg"
gtLabels = "gt.cfg"
batchsize = 4
norm_zscore_prms = {'apply_to_all_channels': True}
""",
    )
    assert (config.name, config.batch_size) == ("mine", 4)
    assert config.model == tmp_path / "a.model.ckpt"
    assert (config.cases.names, config.cases.roi, config.cases.labels) == (
        tmp_path / "names.cfg",
        tmp_path / "roi.cfg",
        tmp_path / "gt.cfg",
    )
    assert config.preparation.z_score.channels is None
