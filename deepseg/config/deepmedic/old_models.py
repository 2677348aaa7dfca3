"""Model files of DeepMedic 0.5 to 0.7.2: maps of subsampled pathways, and keys about training.

Theano's versions, up to 0.6.1, halved the feature maps of subsampled pathways without a list, and
made pathways of lists without a factor. Such a file is told by keys that ended with them. Batch
sizes stood in model files until 0.7.2, and settings of the optimiser in the first ones; the train
files of those versions miss them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from deepseg.config.deepmedic.key_rules import CfgValues, Reading, is_true
from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.files.document import Document
from deepseg.errors import DeepsegError

OPTIMISER_KEYS = (
    "learningRate",
    "sgd0orAdam1orRms2",
    "classicMom0OrNesterov1",
    "momentumValue",
    "momNonNorm0orNormalized1",
    "b1Adam",
    "b2Adam",
    "epsilonAdam",
    "rhoRms",
    "epsilonRms",
    "L1_reg",
    "L2_reg",
)
"""Keys of model files until 2017, and of train files since."""
THEANO_KEYS = (
    "initializeClassic0orDelving1",
    "relu0orPrelu1",
    "kernelDimensionsSubsampled",
    *OPTIMISER_KEYS,
)
"""Keys of model files that ended before 0.7.0."""
_MAPS, _FACTORS = "numberFMsPerLayerSubsampled", "subsampleFactor"


def model_readings(cfg: CfgValues) -> Iterator[Reading]:
    """Values that the version of a model file took in place of what the keys say now.

    >>> old = {"relu0orPrelu1": 1, "useSubsampledPathway": True,
    ...        "numberFMsPerLayerNormal": [30, 40], "subsampleFactor": [[3, 3, 3], [5, 5, 5]]}
    >>> [reading.value for reading in model_readings(old)]
    [[[30, 40], [15, 20]]]
    """
    if not is_true("useSubsampledPathway")(cfg):
        return
    factors = _lists(cfg.get(_FACTORS, [[3, 3, 3]]))
    maps = _lists(cfg.get(_MAPS, cfg.get("numberFMsPerLayerNormal")))
    if factors is None or maps is None:
        return  # these keys are wrong themselves, and will be refused
    reason = next((name for name in THEANO_KEYS if name in cfg), None)
    if len(maps) < len(factors):
        yield from _missing_lists(maps, factors, reason, is_old="batchSizeTrain" in cfg)
    elif len(maps) > len(factors):
        yield from _extra_lists(maps, factors, reason)


def _missing_lists(
    maps: list[list[Any]], factors: list[list[Any]], reason: str | None, *, is_old: bool
) -> Iterator[Reading]:
    """Feature maps of the pathways that have none of their own."""
    halved = list(maps)
    while len(halved) < len(factors):
        halved.append([max(count // 2, 1) for count in halved[-1]])
    if reason is not None:
        note = f"further pathways have half the feature maps of the one before: {_MAPS} = {halved}"
        yield Reading(_MAPS, halved, f"as a file of 0.6.1 or before, as it has {reason}: {note}")
    elif is_old:
        as_now = maps + [maps[-1]] * (len(factors) - len(maps))
        yield Reading(
            _MAPS,
            as_now,
            f"as from 0.7 on, the last list holds for all pathways: {_MAPS} = {as_now}; 0.6.1 and "
            f"before (Theano) halved it: for those, write {_MAPS} = {halved}",
        )


def _extra_lists(
    maps: list[list[Any]], factors: list[list[Any]], reason: str | None
) -> Iterator[Reading]:
    """Pathways for the lists without a factor, or no use of them."""
    if reason is None:
        yield Reading(
            _MAPS,
            maps[: len(factors)],
            f"{_MAPS} has more lists ({len(maps)}) than subsampleFactor has entries "
            f"({len(factors)}); the last ones are ignored",
        )
        return
    added = list(factors)
    while len(added) < len(maps):
        added.append([factor + 2 for factor in added[-1]])
    yield Reading(
        _FACTORS,
        added,
        f"as a file of 0.6.1 or before, as it has {reason}: further lists of feature maps are "
        f"pathways with larger factors: {_FACTORS} = {added}",
    )


def _lists(value: Any) -> list[list[Any]] | None:
    """A list of lists of whole numbers; a single list is one of one list."""
    if not isinstance(value, list) or not value:
        return None
    lists = value if all(isinstance(entry, list) for entry in value) else [value]
    numbers = [number for entry in lists for number in entry]
    is_counted = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
    return lists if is_counted and all(lists) else None


def training_keys(document: Document, model_file: Path | None) -> Mapping[str, Any]:
    """Batch size and optimiser in a `.cfg` model file, by the keys of later train files.

    Whatever is wrong with the file is told by whoever reads its network.

    Args:
        document: A file of a session.
        model_file: That describes its model; None for the one that ``document`` names.
    """
    named = document.values.get("cnnModelFilePath")
    if model_file is None and isinstance(named, str):
        model_file = document.file.parent / named
    if model_file is None or model_file.suffix.lower() != ".cfg":
        return {}
    try:
        values = read_cfg(model_file).values
    except DeepsegError:
        return {}
    carried = {"batchsize_train": values.get("batchSizeTrain")}
    carried |= {name: values.get(name) for name in OPTIMISER_KEYS}
    return {name: value for name, value in carried.items() if value is not None}
