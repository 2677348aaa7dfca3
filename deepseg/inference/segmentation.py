"""The result of a prediction: labels and maps of a case, on its own grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deepseg.data.images.volumes import Geometry, Volume, write_volume
from deepseg.inference.postprocess import Labels


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of a case and the maps that were requested.

    Attributes:
        labels: ``(X, Y, Z)``; 0, the background, outside the region of interest.
        probabilities: ``(X, Y, Z)`` by name of the class, 0 outside the region of interest.
        uncertainty: ``(X, Y, Z)`` by name, 0 outside the region of interest.
        feature_maps: ``(maps, X, Y, Z)`` by address of the layer.
        geometry: Where the voxels lie in the patient.
        header: NIfTI header fields of files on this grid; opaque.
    """

    labels: Labels
    probabilities: Mapping[str, NDArray[np.float32]]
    uncertainty: Mapping[str, NDArray[np.float32]]
    feature_maps: Mapping[str, NDArray[np.float32]]
    geometry: Geometry
    header: Mapping[str, Any]

    @property
    def affine(self) -> NDArray[np.float64]:
        """``(4, 4)``: voxel index to RAS millimetres."""
        return self.geometry.affine

    def volumes_ml(self, classes: Sequence[str]) -> dict[str, float]:
        """Volume of every class above the background, by name.

        Args:
            classes: Names of all labels.
        """
        voxel_ml = self.geometry.voxel_ml
        return {
            name: float((self.labels == label).sum()) * voxel_ml
            for label, name in enumerate(classes)
            if label > 0
        }

    def save(self, path: Path | str, array: NDArray[Any] | None = None) -> Path:
        """Write the labels, or another ``(X, Y, Z)`` array on this grid, as NIfTI.

        Args:
            path: Ends in ``.nii.gz`` or ``.nii``.
            array: Such as ``segmentation.probabilities["lesion"]``; None for the labels.

        Returns:
            The path.

        Raises:
            OutputNotWritable: ``output-not-writable``, if the disk or the system refuses.
        """
        values = self.labels if array is None else array
        write_volume(Path(path), values, Volume(self.labels, self.geometry, self.header))
        return Path(path)
