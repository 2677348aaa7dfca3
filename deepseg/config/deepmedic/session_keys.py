"""Rules for every key of DeepMedic's train and test files, as data.

Defaults are given where DeepMedic's differ from ours or depend on other keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseg.config.deepmedic import convert
from deepseg.config.deepmedic.key_rules import (
    CfgValues,
    Condition,
    IgnoredKey,
    Key,
    KeyRule,
    OldKey,
    RefusedKey,
    always,
    default,
    is_absent,
    is_true,
)

_validates_samples = is_true("performValidationOnSamplesThroughoutTraining")
_validates_volumes = is_true("performFullInferenceOnValidationImagesEveryFewEpochs")
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


def _is_off(value: object) -> bool:
    return not value


def _validates(cfg: CfgValues) -> bool:
    return _validates_samples(cfg) or _validates_volumes(cfg)


def _schedule_is(*names: str) -> Condition:
    return lambda cfg: cfg.get("typeOfLearningRateSchedule", "poly") in names


def _optimiser_is(*numbers: int) -> Condition:
    return lambda cfg: cfg.get("sgd0orAdam1orRms2", 2) in numbers


def _has_categories(name: str, by_default: int, validating: Condition) -> Condition:
    """The sampling type has more than one category, so that their shares mean something."""
    return lambda cfg: validating(cfg) and cfg.get(name, by_default) in (0, 3)


def _final_rate_and_momentum(value: Any, cfg: CfgValues) -> list[float]:
    """Of ``[first epoch, factor, momentum]``, where the factor is one of the initial rate."""
    match value, cfg.get("learningRate", 0.001):
        case [_, int() | float() as factor, momentum], int() | float() as rate:
            return [factor * rate, momentum]
    raise convert.refused(value, expected="a list of 3 numbers")


def _and(first: Condition, second: Condition) -> Condition:
    return lambda cfg: first(cfg) and second(cfg)


def _case_lists(suffix: str, block: str, table: str, used: Condition) -> tuple[Key, ...]:
    """Table, channels, labels and ROI of one set of cases."""
    lists = _and(used, is_absent(table))
    return (
        Key(name=table, path=f"{block}.table", used=used),
        Key(name=f"channels{suffix}", path=f"{block}.channels", used=lists, required=lists),
        Key(name=f"gtLabels{suffix}", path=f"{block}.labels", used=lists, required=lists),
        Key(name=f"roiMasks{suffix}", path=f"{block}.roi", used=lists),
    )


def _saved(suffix: str, block: str, used: Condition) -> tuple[Key, ...]:
    """Files that are written for every case; the keys of train files end in ``Val``."""
    maps = _and(used, is_true(f"saveIndividualFms{suffix}"))
    indices = "minMaxIndicesOfFmsToSaveFromEachLayerOf{}Pathway" + suffix
    suffixes = f"suffixForSegmAndProbsDict{suffix}"
    return (
        Key(
            name=f"saveSegmentation{suffix}",
            path=f"{block}.segmentation",
            default=default(True),
            used=used,
        ),
        Key(
            name=f"saveProbMapsForEachClass{suffix}",
            path=f"{block}.probabilities",
            convert=convert.saved_classes,
            default=default([]),
            used=used,
            note="all classes in DeepMedic, where the list is empty or not given",
        ),
        Key(name=suffixes, entry="segm", path=f"{block}.segmentation_suffix", used=used),
        Key(name=suffixes, entry="prob", path=f"{block}.probability_suffix", used=used),
        Key(name=f"saveIndividualFms{suffix}", path="", convert=convert.is_on, used=used),
        *(
            Key(
                name=indices.format(deepmedic_name),
                path=f"{block}.feature_maps",
                convert=convert.feature_maps(pathway),
                used=maps,
            )
            for deepmedic_name, pathway in (
                ("Normal", "normal"),
                ("Subsampled", "sub*"),
                ("FullyConnected", "fc"),
            )
        ),
    )


def _old_augmentation(name: str) -> tuple[OldKey, OldKey]:
    """Augmentation of versions in which one key had parts of those that there are now."""
    return (
        OldKey(
            name=name,
            new="augm_sample_prms_tr",
            read=lambda value, _: (
                {k: v for k, v in value.items() if k != "affine"}
                if isinstance(value, dict)
                else value
            ),
            used=lambda cfg: not isinstance(cfg[name], dict) or bool({*cfg[name]} - {"affine"}),
        ),
        OldKey(
            name=name,
            new="augm_img_prms_tr",
            read=lambda value, _: {"affine": value["affine"]},
            used=lambda cfg: isinstance(cfg[name], dict) and "affine" in cfg[name],
        ),
    )


def _unused_sampling_keys() -> tuple[IgnoredKey, ...]:
    return tuple(
        IgnoredKey(name, note)
        for suffix, category in (("Train", "Training"), ("Val", "Val"))
        for name, note in (
            (
                f"percentOfSamplesToExtractPositive{suffix}",
                f"say proportionOfSamplesToExtractPerCategory{category}",
            ),
            (
                f"weightedMapsForPosSampling{suffix}",
                f"say weightedMapsForSamplingEachCategory{suffix}",
            ),
            (
                f"weightedMapsForNegSampling{suffix}",
                f"say weightedMapsForSamplingEachCategory{suffix}",
            ),
            (f"samplingMasksAreProbMaps{suffix}", "weight maps may hold any weights"),
        )
    )


_CHECKS: tuple[KeyRule, ...] = (
    IgnoredKey(
        "run_input_checks",
        "the input is always checked",
        silent=lambda value: value in (True, 1),
    ),
    IgnoredKey(
        "padInputImagesBool",
        "images are always padded, so that every voxel is predicted",
        silent=lambda value: value in (True, 1),
    ),
    IgnoredKey(
        "norm_verbosity_lvl", "the log has one level of detail", silent=lambda value: value == 0
    ),
    *(
        RefusedKey(name, "use norm_zscore_prms, such as {'apply_to_all_channels': True}")
        for name in ("cutoff_percent", "cutoff_std", "cutoff_mean")
    ),
)

TRAIN_KEYS: tuple[KeyRule, ...] = (
    Key(name="sessionName", path="name", default=default("trainSession")),
    Key(name="folderForOutput", path="output", required=always),
    Key(name="cnnModelFilePath", path="model"),
    Key(name="tensorboard_log", path="tensorboard"),
    *_case_lists("Training", "training.cases", "dataframe_train", always),
    Key(
        name="allow_missing_classes",
        path="training.cases.allow_missing_classes",
        default=default(True),
        note="a key of ours: DeepMedic trains whichever classes occur",
    ),
    Key(
        name="typeOfSamplingForTraining",
        path="training.sampling.type",
        convert=convert.chosen(_SAMPLING),
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
        convert=convert.at_least_zero,
        default=default(0),
    ),
    Key(
        name="typeOfLearningRateSchedule",
        path="schedule.type",
        convert=convert.chosen(_SCHEDULES),
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
        convert=convert.whole,
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
        convert=convert.entry(0, of=2),
        used=_schedule_is("expon"),
        note="a rate, not a factor",
    ),
    Key(
        name="paramsForExpSchedForLrAndMom",
        path="schedule.final_momentum",
        convert=convert.entry(1, of=2),
        default=default([None, 0.9]),
        used=_and(_schedule_is("expon"), _optimiser_is(0, 2)),
        note="0.9 in DeepMedic where it is not given",
    ),
    Key(name="augm_img_prms_tr", path="training.augmentation.affine", convert=convert.affine),
    Key(
        name="augm_sample_prms_tr",
        entry="hist_dist",
        path="training.augmentation.intensity",
        convert=convert.intensity,
    ),
    Key(
        name="augm_sample_prms_tr",
        entry="reflect",
        path="training.augmentation.reflect",
        convert=convert.reflections,
    ),
    Key(
        name="augm_sample_prms_tr",
        entry="rotate90",
        path="training.augmentation.rotate90",
        convert=convert.quarter_turns,
    ),
    Key(
        name="reflectImagesPerAxis",
        path="training.augmentation.reflect",
        convert=convert.old_reflections,
    ),
    Key(name="performIntAugm", path="", convert=convert.is_on),
    Key(
        name="sampleIntAugmShiftWithMuAndStd",
        path="training.augmentation.intensity.shift",
        convert=convert.gaussian,
        used=_shifts_intensities,
    ),
    Key(
        name="sampleIntAugmMultiWithMuAndStd",
        path="training.augmentation.intensity.scale",
        convert=convert.gaussian,
        used=_shifts_intensities,
    ),
    *(
        rule
        for name in ("augm_params_tr", "augmentation_sample", "augmentation_image")
        for rule in _old_augmentation(name)
    ),
    Key(
        name="performValidationOnSamplesThroughoutTraining",
        path="validation.samples",
        convert=convert.block_if_on,
        default=default(False),
        used=_validates,
    ),
    Key(
        name="performFullInferenceOnValidationImagesEveryFewEpochs",
        path="validation.volumes",
        convert=convert.block_if_on,
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
        convert=convert.chosen(_SAMPLING),
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
        convert=convert.chosen(_OPTIMISERS),
        default=default(2),
    ),
    Key(name="learningRate", path="optimiser.learning_rate"),
    Key(
        name="classicMom0OrNesterov1",
        path="optimiser.nesterov",
        convert=convert.chosen({0: False, 1: True}),
        used=_optimiser_is(0, 2),
    ),
    Key(name="momentumValue", path="optimiser.momentum", used=_optimiser_is(0, 2)),
    Key(
        name="momNonNorm0orNormalized1",
        path="optimiser.normalised_momentum",
        convert=convert.chosen({0: False, 1: True}),
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
        convert=convert.none_is_zero,
    ),
    Key(name="losses_and_weights", entry="dsc", path="loss.dice", convert=convert.none_is_zero),
    Key(name="losses_and_weights", entry="iou", path="loss.iou", convert=convert.none_is_zero),
    Key(
        name="reweight_classes_in_cost",
        path="loss.class_weights",
        convert=convert.class_weights,
    ),
    Key(name="L1_reg", path="loss.l1"),
    Key(name="L2_reg", path="loss.l2"),
    Key(
        name="layersToFreezeNormal",
        path="freeze.layers",
        convert=convert.addresses("normal"),
        joins=True,
    ),
    Key(
        name="layersToFreezeSubsampled",
        path="freeze.layers",
        convert=convert.addresses("sub*"),
        joins=True,
        default=lambda cfg: cfg.get("layersToFreezeNormal"),
        note="as layersToFreezeNormal in DeepMedic where it is not given",
    ),
    Key(
        name="layersToFreezeFC",
        path="freeze.layers",
        convert=convert.addresses("fc"),
        joins=True,
    ),
    Key(
        name="norm_zscore_prms",
        path="preparation.z_score",
        convert=convert.z_score,
        default=default({}),
        note="off in DeepMedic where it is not given",
    ),
    *_CHECKS,
    OldKey(name="csvTraining", new="dataframe_train"),
    OldKey(name="csvValidation", new="dataframe_val"),
    OldKey(name="tensorboardLog", new="tensorboard_log"),
    OldKey(
        name="stable0orAuto1orPredefined2orExponential3LrSchedule",
        new="typeOfLearningRateSchedule",
        read=lambda value, _: convert.chosen(_OLD_SCHEDULES)(value),
    ),
    OldKey(
        name="minIncreaseInValidationAccuracyThatResetsWaiting",
        new="min_incr_of_val_acc_considered",
    ),
    OldKey(
        name="exponentialSchedForLrAndMom",
        new="numEpochsToWaitBeforeLoweringLr",
        read=lambda value, _: convert.entry(0, of=3)(value),
        used=_schedule_is("expon"),
        wins=True,
    ),
    OldKey(
        name="exponentialSchedForLrAndMom",
        new="paramsForExpSchedForLrAndMom",
        read=_final_rate_and_momentum,
        used=_schedule_is("expon"),
    ),
    Key(name="useDefaultTrainingSamplingFromGtAndRoi", path="", convert=convert.is_on),
    Key(name="useDefaultUniformValidationSampling", path="", convert=convert.is_on),
    *_unused_sampling_keys(),
    IgnoredKey("saveAllFmsIn4DimImageVal", "feature maps are written one by one", silent=_is_off),
    IgnoredKey("saveAllFmsIn4DimImage", "feature maps are written one by one", silent=_is_off),
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
    Key(name="norm_zscore_prms", path="preparation.z_score", convert=convert.z_score),
    *_CHECKS,
    OldKey(name="csvTest", new="dataframe"),
    IgnoredKey("saveAllFmsIn4DimImage", "feature maps are written one by one", silent=_is_off),
)

ALTERNATIVES: dict[str, tuple[str, Mapping[Any, str]]] = {
    "schedule.type": ("typeOfLearningRateSchedule", _SCHEDULES),
    "optimiser.name": ("sgd0orAdam1orRms2", _OPTIMISERS),
}
"""Keys of ours that choose which other keys there are, with DeepMedic's key and its words."""
