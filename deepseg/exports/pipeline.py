"""The use of an exported network as plain data: channels, classes, preparation, tiles.

Programs read it from ``pipeline.json`` beside the network, or from the metadata of the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepseg.config.cases import Preparation, ZScore
from deepseg.config.testing import Inference
from deepseg.errors import DeepsegError, Problem
from deepseg.exports.image_box import ImageBox, border
from deepseg.geometry.boxes import Int3, ceil_div, floor_div, maximum, mul, per_axis, sub, text
from deepseg.geometry.context import EVERYWHERE, NetworkGeometry
from deepseg.inference.requests import mirrored_axes, window_grid
from deepseg.model.checkpoint import Checkpoint
from deepseg.model.layout import layout
from deepseg.version import VERSION

SCHEMA = "pipeline-1"
FILE = "pipeline.json"
METADATA = "deepseg.pipeline"  # key of the metadata of an ONNX file
DEFAULTS = Inference()  # of segmenting


def pipeline_record(model: Checkpoint, box: ImageBox, segment: Int3 | None) -> dict[str, Any]:
    """Preparation of cases and their tiles for an exported network, after schema ``pipeline-1``.

    Args:
        model: That is exported.
        box: That the network reads.
        segment: Size of a segment; None for that of the model.
    """
    cohort, tiling = model.cohort, _tiling_record(model, box, segment)
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "name": model.config.name,
        "channels": list(model.config.channels),
        "classes": list(model.config.classes),
        "preparation": None
        if model.preparation is None
        else _preparation_record(model.preparation, model.config.channels),
        "training_cases": None
        if cohort is None
        else {
            "spacing_mm": None if cohort.spacing_mm is None else list(cohort.spacing_mm),
            "orientations": None if cohort.orientations is None else list(cohort.orientations),
            "has_roi": cohort.has_roi,
        },
        "tiling": tiling,
        "needs": list(_needs(model.preparation, tiling)),
        "provenance": model.provenance.words(),
    }


def _needs(preparation: Preparation | None, tiling: Mapping[str, Any]) -> Iterator[str]:
    """What a program has to do besides turning axes, running the two networks, and tiles."""
    if preparation is None:
        yield "a preparation that the model does not tell"
    elif preparation.roi is not None:
        yield "a region of interest from the image"
    if tiling["windows"]:
        yield "windows that overlap"
    if tiling["mirror"]:
        yield "mirror images"


def _preparation_record(preparation: Preparation, channels: tuple[str, ...]) -> dict[str, Any]:
    spacing, z_score = preparation.spacing_mm, preparation.z_score
    record: dict[str, Any] | None = None
    if isinstance(z_score, ZScore):
        record = {
            "channels": [name for name in channels if preparation.normalises(name)],
            "cutoff_percentiles": z_score.cutoff_percentiles,
            "cutoff_deviations": z_score.cutoff_deviations,
            "above_mean": z_score.above_mean,
        }
    return {
        "orientation": preparation.orientation,
        "resample_mm": None if spacing is None else list(spacing),
        "roi": preparation.roi,
        "clip": preparation.clip,
        "z_score": record,
        "nnunet": None
        if preparation.nnunet is None
        else preparation.nnunet.model_dump(mode="json"),
    }


def _tiling_record(model: Checkpoint, box: ImageBox, segment: Int3 | None) -> dict[str, Any]:
    plan, geometry = layout(model.config), model.geometry
    before, after = box.context
    mirrored = geometry.mirrored
    step = _step(geometry)
    return {
        "tile": list(_tile(model, segment, step)),
        "step": list(step),
        "border": list(border(plan)),
        "context": [list(before), list(after)],
        "mirrored": None if EVERYWHERE in mirrored else [list(size) for size in mirrored],
        "smallest_box": list(box.input_sizes.smallest),
        "box_step": list(box.input_sizes.step),
        "windows": _windows_record(model),
        "mirror": ["xyz"[axis] for axis in mirrored_axes(DEFAULTS, model.config)],
    }


def _windows_record(model: Checkpoint) -> dict[str, Any] | None:
    """Windows that overlap, as in segmenting; None where tiles follow each other."""
    overlap = window_grid(DEFAULTS, model).overlap
    if not overlap:
        return None
    windows = model.config.windows
    return {
        "overlap": overlap,
        "places": windows.places,
        "beyond": windows.beyond,
        "average": windows.average,
    }


def _step(geometry: NetworkGeometry) -> Int3:
    """Voxels from one place to the next at which all pathways are in phase."""
    factors = [pathway.factor for pathway in geometry.pathways]
    return per_axis(math.lcm, geometry.step, *factors)


def _tile(model: Checkpoint, segment: Int3 | None, step: Int3) -> Int3:
    """Voxels that are kept of a box; whole steps, at least one.

    Boxes are larger than segments by context that is cheap to read, so that by default as many
    voxels are kept as a segment has.

    Raises:
        DeepsegError: What is wrong with a segment of this size.
    """
    if segment is None:
        size = model.config.segment_sizes["inference"]
        return mul(ceil_div(size, step), step)
    problem = model.config.segment_size_problem(segment)
    if problem is not None:
        raise DeepsegError(
            Problem(problem.code, f"-segment of {text(segment)}", problem.expected, problem.fix)
        )
    plan = layout(model.config)
    inner = sub(plan.prediction_size(segment), mul(border(plan), 2))
    return mul(maximum(floor_div(inner, step), (1, 1, 1)), step)
