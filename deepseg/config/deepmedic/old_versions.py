"""Train files of DeepMedic 0.5 to 0.7.2, which mean something else by what they leave out.

Segments were cut around foreground and background unless a switch was off; batch sizes stood in the
model config; schedules had other defaults. Such a file is told by keys that later versions do not
have, or by the batch size that they would miss.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deepseg.config.deepmedic.key_rules import CfgValues, Reading, is_true

REMOVED_KEYS = (
    "useDefaultTrainingSamplingFromGtAndRoi",
    "useDefaultUniformValidationSampling",
    "stable0orAuto1orPredefined2orExponential3LrSchedule",
    "minIncreaseInValidationAccuracyThatResetsWaiting",
    "exponentialSchedForLrAndMom",
    "percentOfSamplesToExtractPositiveTrain",
    "percentOfSamplesToExtractPositiveVal",
    "weightedMapsForPosSamplingTrain",
    "weightedMapsForNegSamplingTrain",
    "weightedMapsForPosSamplingVal",
    "weightedMapsForNegSamplingVal",
    "samplingMasksAreProbMapsTrain",
    "samplingMasksAreProbMapsVal",
)
_OLD_SCHEDULE = "stable0orAuto1orPredefined2orExponential3LrSchedule"
_SHIFT, _SCALE = "sampleIntAugmShiftWithMuAndStd", "sampleIntAugmMultiWithMuAndStd"
_validates_samples = is_true("performValidationOnSamplesThroughoutTraining")


def evidence(cfg: CfgValues) -> str:
    """Reason to take a train file for one of 0.7.2 or before; empty for a later one.

    >>> evidence({"useDefaultUniformValidationSampling": True, "batchsize_train": 10})
    'it has useDefaultUniformValidationSampling'
    """
    removed = [name for name in REMOVED_KEYS if name in cfg]
    if removed:
        return f"it has {removed[0]}"
    return "" if "batchsize_train" in cfg else "it has no batchsize_train"


def _is_certain(cfg: CfgValues) -> bool:
    """True for a file that cannot be one of a later version, from which a key is missing."""
    return any(name in cfg for name in REMOVED_KEYS)


def old_readings(cfg: CfgValues, carried: Mapping[str, Any]) -> Iterator[Reading]:
    """Values that the version of a train file took for keys in place of what they say now.

    Args:
        cfg: Keys of the file.
        carried: What the model file beside it says about training, by the keys of later files.

    >>> for reading in old_readings({"batchsize_train": 10, "performIntAugm": True}, {}):
    ...     print(reading.name, reading.value)
    sampleIntAugmShiftWithMuAndStd [0.0, 0.05]
    sampleIntAugmMultiWithMuAndStd [1.0, 0.01]
    """
    yield from _intensities(cfg)
    if evidence(cfg):
        yield from _training_sampling(cfg)
        yield from _validation_sampling(cfg)
        yield from _schedule(cfg)
        yield from _of_model_file(cfg, carried)


def _intensities(cfg: CfgValues) -> Iterator[Reading]:
    if not is_true("performIntAugm")(cfg):
        return
    for name, default in ((_SHIFT, [0.0, 0.05]), (_SCALE, [1.0, 0.01])):
        if name not in cfg:
            yield Reading(name, default, f"{name} = {default}", "performIntAugm")


def _training_sampling(cfg: CfgValues) -> Iterator[Reading]:
    switch, name = "useDefaultTrainingSamplingFromGtAndRoi", "typeOfSamplingForTraining"
    note = f"{name} = 0 (around foreground and background, equally often)"
    is_off = switch in cfg and not is_true(switch)(cfg)
    if name in cfg and switch not in cfg and not _is_certain(cfg):
        yield _as_written(name, cfg[name], switch)
        return
    if name not in cfg or not is_off:
        yield Reading(name, 0, note, switch if switch in cfg else "")
    if not is_off:
        yield from _not_read(
            cfg,
            "proportionOfSamplesToExtractPerCategoryTraining",
            "weightedMapsForSamplingEachCategoryTrain",
        )


def _validation_sampling(cfg: CfgValues) -> Iterator[Reading]:
    switch, name = "useDefaultUniformValidationSampling", "typeOfSamplingForVal"
    if not _validates_samples(cfg) or (switch in cfg and not is_true(switch)(cfg)):
        return
    if switch not in cfg and not _is_certain(cfg):
        if cfg.get(name, 1) != 1:
            yield _as_written(name, cfg[name], switch)
        return  # it is uniform by default in every version
    if cfg.get(name, 1) != 1:
        yield Reading(name, 1, f"{name} = 1 (uniform)", switch if switch in cfg else "")
    yield from _not_read(
        cfg,
        "proportionOfSamplesToExtractPerCategoryVal",
        "weightedMapsForSamplingEachCategoryVal",
    )


def _as_written(name: str, value: object, switch: str) -> Reading:
    """A type of sampling in a file that may be a later one."""
    note = f"{name} = {value} as written, although it was read beside {switch} = False only"
    return Reading(name, value, note)


def _not_read(cfg: CfgValues, *names: str) -> Iterator[Reading]:
    for name in names:
        if name in cfg and cfg[name] != []:
            yield Reading(name, None, f"{name} is not read")


def _schedule(cfg: CfgValues) -> Iterator[Reading]:
    wait, epochs = cfg.get("numEpochsToWaitBeforeLoweringLr"), cfg.get("numberOfEpochs", 35)
    match cfg.get(_OLD_SCHEDULE):
        case 0 if isinstance(epochs, int):
            interval = 3 if wait is None else wait
            if isinstance(interval, int) and interval > 0:
                lowered = list(range(interval, max(epochs, interval + 1), interval))
                note = f"the learning rate is divided every {interval} epochs, as 'stable' meant"
                yield Reading(_OLD_SCHEDULE, 2, note, _OLD_SCHEDULE)
                yield Reading("predefinedSchedule", lowered, "", _OLD_SCHEDULE)
                yield Reading("numEpochsToWaitBeforeLoweringLr", None)
        case 1:
            if wait is None:
                note = "numEpochsToWaitBeforeLoweringLr = 3"
                yield Reading("numEpochsToWaitBeforeLoweringLr", 3, note, _OLD_SCHEDULE)
            name = "minIncreaseInValidationAccuracyThatResetsWaiting"
            if name not in cfg:
                yield Reading(name, 0.0005, f"{name} = 0.0005", _OLD_SCHEDULE)
        case 3 if isinstance(epochs, int) and "exponentialSchedForLrAndMom" not in cfg:
            value = [epochs // 2, 1 / 256, 0.9]
            note = f"exponentialSchedForLrAndMom = [{epochs // 2}, 1/256, 0.9]"
            yield Reading("exponentialSchedForLrAndMom", value, note, _OLD_SCHEDULE)
        case None if "typeOfLearningRateSchedule" not in cfg:
            yield Reading(
                "typeOfLearningRateSchedule",
                "poly",
                "typeOfLearningRateSchedule = 'poly', the default of 0.7.0 (before it: 'expon')",
            )


def _of_model_file(cfg: CfgValues, carried: Mapping[str, Any]) -> Iterator[Reading]:
    """Batch sizes and settings of the optimiser that stood in the model config."""
    missing = {name: value for name, value in carried.items() if name not in cfg}
    note = ", ".join(f"{name} = {value}" for name, value in missing.items())
    for name, value in missing.items():
        yield Reading(name, value, f"{note} of the model config" if note else "")
        note = ""
    if "batchsize_train" not in cfg and "batchsize_train" not in carried:
        note = "batchsize_train = 10: write here what the model config has as batchSizeTrain"
        yield Reading("batchsize_train", 10, note)
