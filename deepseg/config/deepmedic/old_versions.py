"""Train files of DeepMedic 0.5 to 0.7.2, which mean something else by what they leave out.

Segments were cut around foreground and background unless a switch was off; batch sizes stood in the
model config; schedules had other defaults. Such a file is told by keys that later versions do not
have, or by the batch size that they would miss.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deepseg.config.deepmedic.key_rules import CfgValues, is_true

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


@dataclass(frozen=True)
class Reading:
    """Value that an old version took for a key.

    Attributes:
        name: DeepMedic's key.
        value: The value; None if the key was not read.
        note: For the user.
        origin: Key that the user wrote and that decides it; empty where none does.
    """

    name: str
    value: Any
    note: str = ""
    origin: str = ""


def evidence(cfg: CfgValues) -> str:
    """Reason to take a train file for one of 0.7.2 or before; empty for a later one.

    >>> evidence({"useDefaultUniformValidationSampling": True, "batchsize_train": 10})
    'it has useDefaultUniformValidationSampling'
    """
    removed = [name for name in REMOVED_KEYS if name in cfg]
    if removed:
        return f"it has {removed[0]}"
    return "" if "batchsize_train" in cfg else "it has no batchsize_train"


def old_readings(cfg: CfgValues) -> Iterator[Reading]:
    """Values that the version of a train file took for keys in place of what they say now.

    >>> for reading in old_readings({"batchsize_train": 10, "performIntAugm": True}):
    ...     print(reading.name, reading.value)
    sampleIntAugmShiftWithMuAndStd [0.0, 0.05]
    sampleIntAugmMultiWithMuAndStd [1.0, 0.01]
    """
    yield from _intensities(cfg)
    if evidence(cfg):
        yield from _training_sampling(cfg)
        yield from _validation_sampling(cfg)
        yield from _schedule(cfg)
        yield from _batch_size(cfg)


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
    if name in cfg and switch not in cfg:
        return  # it was not read unless the switch was off, but whoever wrote it meant it
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
    if not (_validates_samples(cfg) and is_true(switch)(cfg)):
        return  # it is uniform by default in every version
    if cfg.get(name, 1) != 1:
        yield Reading(name, 1, f"{name} = 1 (uniform)", switch)
    yield from _not_read(
        cfg,
        "proportionOfSamplesToExtractPerCategoryVal",
        "weightedMapsForSamplingEachCategoryVal",
    )


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


def _batch_size(cfg: CfgValues) -> Iterator[Reading]:
    if "batchsize_train" not in cfg:
        note = "batchsize_train = 10: write here what the model config has as batchSizeTrain"
        yield Reading("batchsize_train", 10, note)
