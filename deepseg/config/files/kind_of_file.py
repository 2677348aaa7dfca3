"""Tells whether a config file describes a model, a training or a testing session."""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path
from typing import Literal

from deepseg.config.files.cfg_file import read_cfg
from deepseg.config.files.document import Document
from deepseg.config.files.yaml_file import read_yaml
from deepseg.errors import DeepsegError, Problem

FileKind = Literal["model", "train", "test"]

# Keys that only one kind of file has, in our vocabulary and in DeepMedic's.
DISTINCTIVE_KEYS: dict[FileKind, Set[str]] = {
    "model": {
        *("normal", "unet", "imported", "fc", "segments", "classes"),
        *("numberOfOutputClasses", "numberFMsPerLayerNormal", "segmentsDimTrain"),
    },
    "train": {
        *("training", "epochs", "subepochs", "optimiser"),
        *("channelsTraining", "dataframe_train", "numberOfEpochs", "batchsize_train"),
    },
    "test": {
        *("cases", "save", "groups"),
        *("channels", "dataframe", "namesForPredictionsPerCase"),
    },
}

COMMANDS: dict[FileKind, str] = {"model": "-newModel", "train": "-train", "test": "-test"}


def kind_of_file(file: Path) -> FileKind:
    """Kind of config in ``file``, by its keys.

    Raises:
        DeepsegError: The file cannot be read, or ``config-kind``, if it has no key that tells.
    """
    document = read_cfg(file) if file.suffix.lower() == ".cfg" else read_yaml(file)
    kinds = kinds_of(document)
    if kinds:
        return kinds[0]
    raise DeepsegError(
        Problem(
            code="config-kind",
            got="none of the keys that a config file has",
            expected="a model file (normal, segments), a train file (training) or a test file "
            "(cases)",
            fix="begin with one of these keys",
            where=str(file),
        )
    )


def raise_if_of_another_kind(document: Document, expected: FileKind) -> None:
    """Refuse a file that has keys of another kind of file and none of the expected one.

    Raises:
        DeepsegError: ``config-kind``.
    """
    kinds = kinds_of(document)
    if kinds and expected not in kinds:
        raise DeepsegError(
            Problem(
                code="config-kind",
                got=f"a {kinds[0]} file",
                expected=f"a {expected} file",
                fix=f"give a {expected} file, or use {COMMANDS[kinds[0]]} for this one",
                where=str(document.file),
            )
        )


def kinds_of(document: Document) -> list[FileKind]:
    """Kinds of file of which ``document`` has keys that no other kind has."""
    return [kind for kind, keys in DISTINCTIVE_KEYS.items() if keys & document.values.keys()]
