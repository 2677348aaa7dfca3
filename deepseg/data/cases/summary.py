"""Summary of a case whose files have been read.

Summaries are plain values, kept as JSON beside a session, so that a case is read again only when
one of its files has changed. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from deepseg.errors import Problem
from deepseg.geometry.boxes import Int3


@dataclass(frozen=True)
class Intensity:
    """The intensities of one channel, inside the region of interest if there is one.

    Attributes:
        mean: Of all voxels.
        deviation: Of all voxels.
        minimum: Of all voxels.
        maximum: Of all voxels.
        minimum_share: Voxels of the minimum, of all voxels.
        second: The lowest value above the minimum; the minimum, if there is no other.
        low: The 0.1st percentile of the voxels above the minimum.
        high: Their 99.9th percentile.
    """

    mean: float
    deviation: float
    minimum: float
    maximum: float
    minimum_share: float
    second: float
    low: float
    high: float


@dataclass(frozen=True)
class CaseSummary:
    """Content and faults of one case.

    Attributes:
        name: Of the case.
        where: File and line that list it.
        shape: Voxels along X, Y, Z; None if no channel can be read.
        spacing_mm: Distance between voxels along X, Y, Z.
        orientation: Where X, Y, Z grow to, such as ``RAS``: right, anterior, superior.
        missing_channels: Channels that the case lacks, counted from 0.
        intensity: Of every channel; None for one that is missing or cannot be read.
        images: Digest of the voxels of all channels; None if one of them cannot be read.
        class_voxels: Voxels of every class; None without labels that can be used.
        roi_voxels: Voxels of the region of interest, or None without one.
        foreground_outside_roi: Share of the foreground that lies outside the region of interest.
        problems: Everything that is wrong.
        warnings: What the user should know, one sentence each.
        labels: Digest of the labels; None without foreground.
    """

    name: str
    where: str
    shape: Int3 | None
    spacing_mm: tuple[float, float, float] | None
    orientation: str | None
    missing_channels: tuple[int, ...]
    intensity: tuple[Intensity | None, ...]
    images: str | None
    class_voxels: tuple[int, ...] | None
    roi_voxels: int | None
    foreground_outside_roi: float
    problems: tuple[Problem, ...]
    warnings: tuple[str, ...]
    labels: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The summary as values that JSON knows."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> CaseSummary:
        """The summary of which ``values`` are the JSON."""
        return _ADAPTER.validate_python(values)


def unreadable(name: str, where: str, problem: Problem) -> CaseSummary:
    """The summary of a case of which nothing is known but the reason why."""
    return CaseSummary(
        name=name,
        where=where,
        shape=None,
        spacing_mm=None,
        orientation=None,
        missing_channels=(),
        intensity=(),
        images=None,
        class_voxels=None,
        roi_voxels=None,
        foreground_outside_roi=0.0,
        problems=(problem,),
        warnings=(),
    )


_ADAPTER = TypeAdapter(CaseSummary)
