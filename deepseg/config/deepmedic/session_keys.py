"""Every key of DeepMedic's train and test files, and what it is called here: data.

Defaults are given where DeepMedic's differ from ours or depend on other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseg.config.deepmedic import convert as values
from deepseg.config.deepmedic.row_types import (
    Condition,
    Given,
    Ignored,
    Key,
    KeyRule,
    Old,
    Refused,
    always,
    default,
    is_absent,
    is_true,
)

_validates_samples = is_true("performValidationOnSamplesThroughoutTraining")
_validates_volumes = is_true("performFullInferenceOnValidationImagesEveryFewEpochs")
_saves_maps_in_validation = is_true("saveIndividualFmsVal")
_shifts_intensities = is_true("performIntAugm")
_OLD_SCHEDULES = {0: "stable", 1: "auto", 2: "predef", 3: "expon", 4: "poly"}
_SCHEDULES = {
    "stable": "constant",
    "predef": "predefined",
    "poly": "poly",
    "auto": "plateau",
    "expon": "exponential",
}
_OPTIMISERS = {0: "sgd", 1: "adam", 2: "rmsprop"}
_SAMPLING = {0: "foreground_background", 1: "uniform", 2: "whole_image", 3: "per_class"}


def _validates(given: Given) -> bool:
    return _validates_samples(given) or _validates_volumes(given)


def _schedule_is(*names: str) -> Condition:
    return lambda given: given.get("typeOfLearningRateSchedule", "poly") in names


def _optimiser_is(*numbers: int) -> Condition:
    return lambda given: given.get("sgd0orAdam1orRms2", 2) in numbers


def _has_categories(name: str, by_default: int, validating: Condition) -> Condition:
    """The sampling type has more than one category, so that their shares mean something."""
    return lambda given: validating(given) and given.get(name, by_default) in (0, 3)


def _final_rate_and_momentum(value: Any, given: Given) -> list[float]:
    """Of ``[first epoch, factor, momentum]``, where the factor is one of the initial rate."""
    match value, given.get("learningRate", 0.001):
        case [_, int() | float() as factor, momentum], int() | float() as rate:
            return [factor * rate, momentum]
    raise values.refused(value, expected="a list of 3 numbers")


def _and(first: Condition, second: Condition) -> Condition:
    return lambda given: first(given) and second(given)


def _case_lists(suffix: str, block: str, table: str, used: Condition) -> tuple[Key, ...]:
    """Table, channels, labels and ROI of one set of cases."""
    lists = _and(used, is_absent(table))
    return (
        Key(name=table, path=f"{block}.table", used=used),
        Key(name=f"channels{suffix}", path=f"{block}.channels", used=lists, required=lists),
        Key(name=f"gtLabels{suffix}", path=f"{block}.labels", used=lists, required=lists),
        Key(name=f"roiMasks{suffix}", path=f"{block}.roi", used=lists),
    )


def _saved(val: str, block: str, used: Condition) -> tuple[Key, ...]:
    """What is written for every case; the keys of train files end in ``Val``."""
    maps = _and(used, is_true(f"saveIndividualFms{val}"))
    indices = "minMaxIndicesOfFmsToSaveFromEachLayerOf{}Pathway" + val
    suffixes = f"suffixForSegmAndProbsDict{val}"
    return (
        Key(
            name=f"saveSegmentation{val}",
            path=f"{block}.segmentation",
            default=default(True),
            used=used,
        ),
        Key(
            name=f"saveProbMapsForEachClass{val}",
            path=f"{block}.probabilities",
            convert=values.saved_classes,
            default=default([]),
            used=used,
            note="all classes in DeepMedic, where the list is empty or not given",
        ),
        Key(name=suffixes, entry="segm", path=f"{block}.segmentation_suffix", used=used),
        Key(name=suffixes, entry="prob", path=f"{block}.probability_suffix", used=used),
        Key(name=f"saveIndividualFms{val}", path="", convert=values.is_on, used=used),
        *(
            Key(
                name=indices.format(theirs),
                path=f"{block}.feature_maps",
                convert=values.feature_maps(ours),
                used=maps,
            )
            for theirs, ours in (
                ("Normal", "normal"),
                ("Subsampled", "sub*"),
                ("FullyConnected", "fc"),
            )
        ),
    )


def _unused_sampling_keys() -> tuple[Ignored, ...]:
    return tuple(
        Ignored(name, note)
        for part, category in (("Train", "Training"), ("Val", "Val"))
        for name, note in (
            (
                f"percentOfSamplesToExtractPositive{part}",
                f"say proportionOfSamplesToExtractPerCategory{category}",
            ),
            (
                f"weightedMapsForPosSampling{part}",
                f"say weightedMapsForSamplingEachCategory{part}",
            ),
            (
                f"weightedMapsForNegSampling{part}",
                f"say weightedMapsForSamplingEachCategory{part}",
            ),
            (f"samplingMasksAreProbMaps{part}", "weight maps may hold any weights"),
        )
    )


_CHECKS: tuple[KeyRule, ...] = (
    Ignored("run_input_checks", "the input is always checked"),
    Ignored(
        "padInputImagesBool",
        "images are always padded, so that every voxel is predicted",
        silent=lambda value: value in (True, 1),
    ),
    Ignored("norm_verbosity_lvl", "the log has one level of detail"),
    *(
        Refused(f"cutoff_{name}", "use norm_zscore_prms, such as {'apply_to_all_channels': True}")
        for name in ("percent", "std", "mean")
    ),
)

TRAIN_KEYS: tuple[KeyRule, ...] = (
    Key(name="sessionName", path="name", default=default("trainSession")),
    Key(name="folderForOutput", path="output", required=always),
    Key(name="cnnModelFilePath", path="model"),
    Key(name="tensorboard_log", path="tensorboard"),
    *_case_lists("Training", "training.cases", "dataframe_train", always),
    Key(
        name="typeOfSamplingForTraining",
        path="training.sampling.type",
        convert=values.chosen(_SAMPLING),
    ),
    Key(
        name="proportionOfSamplesToExtractPerCategoryTraining",
        path="training.sampling.proportions",
        used=_has_categories("typeOfSamplingForTraining", 3, always),
    ),
    Key(
        name="weightedMapsForSamplingEachCategoryTrain",
        path="training.cases.weight_maps",
        used=is_absent("dataframe_train"),
    ),
    Key(name="numberOfEpochs", path="epochs"),
    Key(name="numberOfSubepochs", path="subepochs"),
    Key(name="numOfCasesLoadedPerSubepoch", path="training.cases_per_subepoch"),
    Key(
        name="numOfCasesLoadedPerSubepoch",
        path="validation.samples.cases",
        used=_validates_samples,
    ),
    Key(
        name="numberTrainingSegmentsLoadedOnGpuPerSubep",
        path="training.segments_per_subepoch",
    ),
    Key(name="batchsize_train", path="training.batch_size", note="required in DeepMedic"),
    Key(
        name="num_processes_sampling",
        path="workers",
        convert=values.at_least_zero,
        default=default(0),
    ),
    Key(
        name="typeOfLearningRateSchedule",
        path="schedule.type",
        convert=values.chosen(_SCHEDULES),
        default=default("poly"),
    ),
    Key(
        name="whenDecreasingDivideLrBy",
        path="schedule.divide_by",
        used=_schedule_is("predef", "auto"),
    ),
    Key(
        name="numEpochsToWaitBeforeLoweringLr",
        path="schedule.wait",
        used=_schedule_is("poly", "expon"),
    ),
    Key(
        name="numEpochsToWaitBeforeLoweringLr",
        path="schedule.patience",
        convert=values.whole,
        used=_schedule_is("auto"),
    ),
    Key(
        name="min_incr_of_val_acc_considered",
        path="schedule.min_improvement",
        used=_schedule_is("auto"),
    ),
    Key(
        name="predefinedSchedule",
        path="schedule.epochs",
        used=_schedule_is("predef"),
        required=_schedule_is("predef"),
    ),
    Key(
        name="paramsForExpSchedForLrAndMom",
        path="schedule.final_learning_rate",
        convert=values.entry(0, of=2),
        used=_schedule_is("expon"),
        note="a rate, not a factor",
    ),
    Key(
        name="paramsForExpSchedForLrAndMom",
        path="schedule.final_momentum",
        convert=values.entry(1, of=2),
        default=default([None, 0.9]),
        used=_and(_schedule_is("expon"), _optimiser_is(0, 2)),
        note="0.9 in DeepMedic where it is not given",
    ),
    Key(name="augm_img_prms_tr", path="training.augmentation.affine", convert=values.affine),
    Key(
        name="augm_sample_prms_tr",
        entry="hist_dist",
        path="training.augmentation.intensity",
        convert=values.intensity,
    ),
    Key(
        name="augm_sample_prms_tr",
        entry="reflect",
        path="training.augmentation.reflect",
        convert=values.reflections,
    ),
    Key(
        name="augm_sample_prms_tr",
        entry="rotate90",
        path="training.augmentation.rotate90",
        convert=values.quarter_turns,
    ),
    Key(
        name="reflectImagesPerAxis",
        path="training.augmentation.reflect",
        convert=values.old_reflections,
    ),
    Key(name="performIntAugm", path="", convert=values.is_on),
    Key(
        name="sampleIntAugmShiftWithMuAndStd",
        path="training.augmentation.intensity.shift",
        convert=values.gaussian,
        used=_shifts_intensities,
    ),
    Key(
        name="sampleIntAugmMultiWithMuAndStd",
        path="training.augmentation.intensity.scale",
        convert=values.gaussian,
        used=_shifts_intensities,
    ),
    Refused("augm_params_tr", "use augm_sample_prms_tr"),
    Key(
        name="performValidationOnSamplesThroughoutTraining",
        path="validation.samples",
        convert=values.block_if_on,
        default=default(False),
        used=_validates,
    ),
    Key(
        name="performFullInferenceOnValidationImagesEveryFewEpochs",
        path="validation.volumes",
        convert=values.block_if_on,
        default=default(False),
        used=_validates,
    ),
    *_case_lists("Validation", "validation.cases", "dataframe_val", _validates),
    Key(
        name="weightedMapsForSamplingEachCategoryVal",
        path="validation.cases.weight_maps",
        used=_and(_validates_samples, is_absent("dataframe_val")),
    ),
    Key(
        name="namesForPredictionsPerCaseVal",
        path="validation.cases.names",
        used=_and(_validates, is_absent("dataframe_val")),
    ),
    Key(
        name="numberValidationSegmentsLoadedOnGpuPerSubep",
        path="validation.samples.segments",
        default=default(3000),
        used=_validates_samples,
        note="3000 in DeepMedic, drawn anew in every sub-epoch",
    ),
    Key(
        name="batchsize_val_samples",
        path="validation.samples.batch_size",
        used=_validates_samples,
    ),
    Key(
        name="typeOfSamplingForVal",
        path="validation.samples.sampling.type",
        convert=values.chosen(_SAMPLING),
        default=default(1),
        used=_validates_samples,
    ),
    Key(
        name="proportionOfSamplesToExtractPerCategoryVal",
        path="validation.samples.sampling.proportions",
        used=_has_categories("typeOfSamplingForVal", 1, _validates_samples),
    ),
    Key(
        name="numberOfEpochsBetweenFullInferenceOnValImages",
        path="validation.volumes.every",
        default=default(1),
        used=_validates_volumes,
    ),
    Key(
        name="batchsize_val_whole",
        path="validation.volumes.batch_size",
        used=_validates_volumes,
    ),
    *_saved("Val", "validation.volumes.save", _validates_volumes),
    Key(
        name="sgd0orAdam1orRms2",
        path="optimiser.name",
        convert=values.chosen(_OPTIMISERS),
        default=default(2),
    ),
    Key(name="learningRate", path="optimiser.learning_rate"),
    Key(
        name="classicMom0OrNesterov1",
        path="optimiser.nesterov",
        convert=values.chosen({0: False, 1: True}),
        used=_optimiser_is(0, 2),
    ),
    Key(name="momentumValue", path="optimiser.momentum", used=_optimiser_is(0, 2)),
    Key(
        name="momNonNorm0orNormalized1",
        path="optimiser.normalised_momentum",
        convert=values.chosen({0: False, 1: True}),
        default=default(1),
        used=_optimiser_is(0, 2),
        note="true in DeepMedic where it is not given",
    ),
    Key(name="b1Adam", path="optimiser.beta1", used=_optimiser_is(1)),
    Key(name="b2Adam", path="optimiser.beta2", used=_optimiser_is(1)),
    Key(name="epsilonAdam", path="optimiser.epsilon", used=_optimiser_is(1)),
    Key(name="rhoRms", path="optimiser.rho", used=_optimiser_is(2)),
    Key(name="epsilonRms", path="optimiser.epsilon", used=_optimiser_is(2)),
    Key(
        name="losses_and_weights",
        entry="xentr",
        path="loss.cross_entropy",
        convert=values.none_is_zero,
    ),
    Key(name="losses_and_weights", entry="dsc", path="loss.dice", convert=values.none_is_zero),
    Key(name="losses_and_weights", entry="iou", path="loss.iou", convert=values.none_is_zero),
    Key(
        name="reweight_classes_in_cost",
        path="loss.class_weights",
        convert=values.class_weights,
    ),
    Key(name="L1_reg", path="loss.l1"),
    Key(name="L2_reg", path="loss.l2"),
    Key(
        name="layersToFreezeNormal",
        path="freeze.layers",
        convert=values.addresses("normal"),
        joins=True,
    ),
    Key(
        name="layersToFreezeSubsampled",
        path="freeze.layers",
        convert=values.addresses("sub*"),
        joins=True,
        default=lambda given: given.get("layersToFreezeNormal"),
        note="as layersToFreezeNormal in DeepMedic where it is not given",
    ),
    Key(
        name="layersToFreezeFC",
        path="freeze.layers",
        convert=values.addresses("fc"),
        joins=True,
    ),
    Key(
        name="norm_zscore_prms",
        path="preparation.z_score",
        convert=values.z_score,
        default=default({}),
        note="off in DeepMedic where it is not given",
    ),
    *_CHECKS,
    Old(name="csvTraining", new="dataframe_train"),
    Old(name="csvValidation", new="dataframe_val"),
    Old(name="tensorboardLog", new="tensorboard_log"),
    Old(
        name="stable0orAuto1orPredefined2orExponential3LrSchedule",
        new="typeOfLearningRateSchedule",
        read=lambda value, _: values.chosen(_OLD_SCHEDULES)(value),
    ),
    Old(
        name="minIncreaseInValidationAccuracyThatResetsWaiting",
        new="min_incr_of_val_acc_considered",
    ),
    Old(
        name="exponentialSchedForLrAndMom",
        new="numEpochsToWaitBeforeLoweringLr",
        read=lambda value, _: values.entry(0, of=3)(value),
        used=_schedule_is("expon"),
        wins=True,
    ),
    Old(
        name="exponentialSchedForLrAndMom",
        new="paramsForExpSchedForLrAndMom",
        read=_final_rate_and_momentum,
        used=_schedule_is("expon"),
    ),
    Ignored(
        "useDefaultTrainingSamplingFromGtAndRoi",
        "say typeOfSamplingForTraining = 0 for what True meant",
    ),
    Ignored("useDefaultUniformValidationSampling", "say typeOfSamplingForVal = 1 for True"),
    *_unused_sampling_keys(),
    Ignored("saveAllFmsIn4DimImageVal", "feature maps are written one by one"),
    Ignored("saveAllFmsIn4DimImage", "feature maps are written one by one"),
)


_has_lists = is_absent("dataframe")

TEST_KEYS: tuple[KeyRule, ...] = (
    Key(name="sessionName", path="name", default=default("testSession")),
    Key(name="folderForOutput", path="output", required=always),
    Key(name="cnnModelFilePath", path="model"),
    Key(name="dataframe", path="cases.table"),
    Key(name="channels", path="cases.channels", used=_has_lists, required=_has_lists),
    Key(name="gtLabels", path="cases.labels", used=_has_lists),
    Key(name="roiMasks", path="cases.roi", used=_has_lists),
    Key(name="namesForPredictionsPerCase", path="cases.names", used=_has_lists),
    *_saved("", "save", always),
    Key(name="batchsize", path="batch_size"),
    Key(name="norm_zscore_prms", path="preparation.z_score", convert=values.z_score),
    *_CHECKS,
    Old(name="csvTest", new="dataframe"),
    Ignored("saveAllFmsIn4DimImage", "feature maps are written one by one"),
)

ALTERNATIVES: dict[str, tuple[str, Mapping[Any, str]]] = {
    "schedule.type": ("typeOfLearningRateSchedule", _SCHEDULES),
    "optimiser.name": ("sgd0orAdam1orRms2", _OPTIMISERS),
}
"""Keys of ours that choose which other keys there are, with DeepMedic's key and its words."""
