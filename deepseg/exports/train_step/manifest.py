"""The description of an exported folder, as plain data that a device reads without deepseg."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepseg.config.cases import Preparation
from deepseg.exports.on_device.networks import FORMAT
from deepseg.exports.train_step.construction import changing_statistics, learnt_names
from deepseg.exports.train_step.step import VELOCITY, StepGraph, input_name
from deepseg.geometry.boxes import Box, Int3, add, sub
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.network import Network
from deepseg.version import VERSION

FAR = 1 << 20  # a voxel before which no pathway restarts its steps


@dataclass(frozen=True)
class StepSettings:
    """Settings of an export that a user chooses.

    Attributes:
        words: Layers that learn, as typed.
        layers: Their addresses.
        batch: Segments of a step.
        segment: Their size.
    """

    words: str
    layers: tuple[str, ...]
    batch: int
    segment: Int3


def manifest(
    model: Checkpoint,
    network: Network,
    settings: StepSettings,
    step: StepGraph,
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """All that a device has to know, and all that brings its weights back into a model.

    Args:
        model: That was exported.
        network: Of the model, frozen as for the step.
        settings: As the user chose them.
        step: The graph of a step.
        digests: SHA-256 of every other file, by name.
    """
    config = model.config
    values = network.state_dict()
    learnt = learnt_names(network)
    state = [*learnt, *(VELOCITY + name for name in learnt), *changing_statistics(network)]
    preparation = Preparation() if model.preparation is None else model.preparation
    order = network.layout.order
    inference = config.segment_sizes["inference"]
    return {
        "format": FORMAT,
        "written_by": f"deepseg {VERSION}",
        "model_file": "" if model.origin.file is None else model.origin.file.name,
        "channels": list(config.channels),
        "classes": list(config.classes),
        "preparation": _plain(preparation),
        "has_roi": model.cohort is not None and model.cohort.has_roi is True,
        "learning": {
            "words": settings.words,
            "layers": list(settings.layers),
            "frozen": [address for address in order if address not in settings.layers],
        },
        "train": plan(network, batch=settings.batch, segment=settings.segment),
        "infer": plan(network, batch=1, segment=inference),
        "trainable": {name: list(values[name].shape) for name in learnt},
        "frozen": {
            name: list(tensor.shape) for name, tensor in values.items() if name not in state
        },
        "state": {name: list(values[name.removeprefix(VELOCITY)].shape) for name in state},
        "types": {name: "int64" for name in state if name.endswith(".steps")},
        "masks": {
            name: {"shape": list(mask.variable.shape), "share": mask.share}
            for name, mask in step.masks.items()
        },
        "description": json.loads(model.description()),
        "files": dict(digests),
    }


def plan(network: Network, *, batch: int, segment: Int3) -> dict[str, Any]:
    """Voxels that a graph reads for a segment, and those that it predicts, as numbers.

    Args:
        network: Of which the graph is.
        batch: Segments that it reads at once.
        segment: Their size.
    """
    geometry = network.geometry
    low, high = geometry.margin
    corner = (FAR, FAR, FAR)
    lattices = geometry.lattices(Box(sub(corner, low), segment))
    restarts = geometry.alignment == "deepmedic"
    return {
        "batch": batch,
        "segment": list(segment),
        "prediction": list(network.layout.prediction_size(segment)),
        "margin": [list(low), list(high)],
        "mirrored": [list(side) for side in geometry.mirrored],
        "phase": list(geometry.step),
        "pathways": [
            {
                "name": pathway.name,
                "input": input_name(pathway.name),
                "start": list(sub(add(points.start, low), corner)),
                "step": list(points.step),
                "count": list(points.count),
                "restarts": restarts and index > 0 and pathway.geometry.sizes is None,
            }
            for index, (pathway, points) in enumerate(
                zip(network.layout.pathways, lattices, strict=True)
            )
        ],
    }


def _plain(preparation: Preparation) -> dict[str, Any]:
    values: dict[str, Any] = preparation.model_dump(mode="json")
    return values | {"resample": preparation.spacing_mm}
