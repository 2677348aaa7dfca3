"""Records that ``-check -json`` and ``-show -json`` print, as documentation/schemas has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepseg.commands.check import CheckReport
from deepseg.config.files.kind_of_file import kind_of_file
from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.config.testing import TestConfig
from deepseg.config.training import TrainConfig
from deepseg.data.cases.summary import CaseSummary
from deepseg.model.checkpoint import Checkpoint, Origin, new_checkpoint, read_checkpoint
from deepseg.model.layout import LayerPlan, layout
from deepseg.transfer.source import Source, model_of_device, read_named_tensors
from deepseg.transfer.sources.device_folder import device_state
from deepseg.version import VERSION


def check_record(file: Path, report: CheckReport) -> dict[str, Any]:
    """The findings of a check, after schema ``check-1``."""
    return {
        "schema": "check-1",
        "version": VERSION,
        "file": str(file),
        "problems": [vars(problem) for problem in report.problems],
        "warnings": list(report.warnings),
        "network": None if report.network is None else _network_record(report.network),
        "cases": {title: list(map(_case_record, rows)) for title, rows in report.cases.items()},
    }


def show_record(file: Path) -> dict[str, Any]:
    """The contents of a model, weights or config file, after schema ``show-1``.

    Raises:
        DeepsegError: The file is missing, damaged or wrong.
    """
    head = {"schema": "show-1", "version": VERSION, "file": str(file)}
    on_device = device_state(file)
    if on_device is not None:
        return head | _model_record(model_of_device(on_device))
    source = read_named_tensors(file)
    if source is not None:
        return head | _weights_record(source)
    if file.suffix == ".save" or file.is_dir():
        return head | _model_record(read_checkpoint(file))
    match kind_of_file(file):
        case "model":
            config = load(ModelConfig, file).config
            return head | _model_record(new_checkpoint(config, seed=0, origin=Origin(file)))
        case "train":
            settings = load(TrainConfig, file).config.model_dump(mode="json")
            return head | {"kind": "train file", "settings": settings}
        case "test":
            settings = load(TestConfig, file).config.model_dump(mode="json")
            return head | {"kind": "test file", "settings": settings}


def _network_record(config: ModelConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "channels": list(config.channels),
        "classes": list(config.classes),
        "parameters": layout(config).parameters,
    }


def _case_record(summary: CaseSummary) -> dict[str, Any]:
    names = ("name", "where", "shape", "spacing_mm", "orientation", "class_voxels", "roi_voxels")
    record = summary.to_json()
    return {name: record[name] for name in names}


def _model_record(model: Checkpoint) -> dict[str, Any]:
    training = model.training
    return {
        "kind": "model",
        "origin": str(model.origin.file),
        "settings": model.config.model_dump(mode="json"),
        "parameters": layout(model.config).parameters,
        "layers": [_layer_record(layer) for layer in layout(model.config)],
        "preparation": None
        if model.preparation is None
        else model.preparation.model_dump(mode="json"),
        "spacing_mm": None if model.spacing_mm is None else list(model.spacing_mm),
        "training": None
        if training is None
        else {
            **{key: training[key] for key in ("session", "epoch", "best")},
            "command": training.get("command"),
            "settings": training.get("settings"),
        },
        "provenance": model.provenance.words(),
    }


def _layer_record(layer: LayerPlan) -> dict[str, Any]:
    return {
        "address": layer.address,
        "depth": layer.depth,
        "inputs": layer.inputs,
        "outputs": layer.outputs,
        "kernel": list(layer.kernel),
        "parameters": layer.parameters,
    }


def _weights_record(source: Source) -> dict[str, Any]:
    return {
        "kind": "weights",
        "format": source.kind,
        "sha256": source.sha256,
        "tensors": [
            {
                "name": name,
                "shape": list(tensor.shape),
                "type": str(tensor.dtype).removeprefix("torch."),
            }
            for name, tensor in source.tensors.items()
        ],
    }
