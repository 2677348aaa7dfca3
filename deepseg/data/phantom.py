"""Brains to try deepseg on: a real template, deformed, with lesion-like spots and two contrasts.

The anatomy is the MNI152 T1 with its grey and white matter maps, which nilearn carries in its
package. Everything else is drawn: shape, lesions, look-alikes of lesions, bias field, gain, noise.
Nothing here knows of networks or sessions, and nothing asks the network for a file.

Source of the anatomy: V. Fonov et al., "Unbiased average age-appropriate atlases for pediatric
studies", NeuroImage 54(1), 2011, doi:10.1016/j.neuroimage.2010.07.033.
Source of the noise: H. Gudbjartsson, S. Patz, "The Rician distribution of noisy MRI data",
Magnetic Resonance in Medicine 34(6), 1995, doi:10.1002/mrm.1910340618.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepseg.data.images.volumes import Geometry, new_volume, write_volume
from deepseg.errors import DeepsegError, Problem
from deepseg.geometry.boxes import Box
from deepseg.storage.atomic import write_text

FloatVolume: TypeAlias = NDArray[np.float32]
LabelVolume: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Affine: TypeAlias = NDArray[np.float64]
Task: TypeAlias = Literal["lesions", "tissue"]

VOXEL_MM = 2.0
CHANNELS = ("T1", "FLAIR")
MARGIN_MM = 12  # room around the template, into which a deformed brain may grow


@dataclass(frozen=True)
class Brain:
    """Anatomy on a grid of 2 mm, from which cases are made; all arrays are ``(X, Y, Z)``.

    Attributes:
        t1: Skull-stripped T1 intensity, from 0 to 1.
        grey: Probability of grey matter.
        white: Probability of white matter.
        mask: The brain, with the fluid in and around it.
        affine: From voxel to mm, towards right, anterior, superior.
    """

    t1: FloatVolume
    grey: FloatVolume
    white: FloatVolume
    mask: Mask
    affine: Affine


@dataclass(frozen=True)
class PhantomCase:
    """One made-up patient; all arrays are ``(X, Y, Z)``.

    Attributes:
        channels: ``T1`` and ``FLAIR``, whole numbers as a scanner stores them, 0 outside the brain.
        labels: By task. ``lesions``: 1 in a lesion. ``tissue``: 1 grey, 2 white matter, where a
            lesion counts as the tissue in which it lies. Always 0 outside the brain.
        roi: The brain.
        affine: From voxel to mm.
    """

    channels: Mapping[str, FloatVolume]
    labels: Mapping[Task, LabelVolume]
    roi: Mask
    affine: Affine


@dataclass(frozen=True)
class MniMaps:
    """The MNI152 brain on the grid of 1 mm on which nilearn carries it; arrays are ``(X, Y, Z)``.

    Attributes:
        t1: Skull-stripped T1 intensity, from 0 to 1.
        grey: Probability of grey matter.
        white: Probability of white matter.
        affine: From voxel to mm, towards right, anterior, superior.
    """

    t1: FloatVolume
    grey: FloatVolume
    white: FloatVolume
    affine: Affine


def mni_brain() -> Brain:
    """The MNI152 brain, cropped with a margin of 12 mm and averaged from 1 mm to 2 mm.

    Raises:
        DeepsegError: ``demo-extra-missing``, if nilearn is not installed.
    """
    maps = mni_maps()
    return _halved(maps.t1, maps.grey, maps.white, affine=maps.affine)


def mni_maps() -> MniMaps:
    """The MNI152 brain as nilearn carries it.

    Raises:
        DeepsegError: ``demo-extra-missing``, if nilearn is not installed.
    """
    with warnings.catch_warnings():
        # Announcements of nilearn and its dependencies to developers are not for our users.
        warnings.simplefilter("ignore")
        try:
            from nilearn import datasets
        except ImportError as error:
            raise _extra_missing() from error
        images = (
            datasets.load_mni152_template(resolution=1),
            datasets.load_mni152_gm_template(resolution=1),
            datasets.load_mni152_wm_template(resolution=1),
        )
    t1, grey, white = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    return MniMaps(t1, grey, white, np.asarray(images[0].affine, dtype=np.float64))


def phantom_case(brain: Brain, *, rng: np.random.Generator) -> PhantomCase:
    """A patient whose brain is a random variation of ``brain``, with 3 to 12 lesions.

    Lesions are blobs of 3 to 9 mm radius, mostly in white matter, dark in T1 and bright in FLAIR.
    Thin spots in the cortex and the lining of the ventricles are as bright in FLAIR, yet healthy.
    """
    anatomy = _deformed(brain, rng=rng)
    lesions = _lesion_fraction(anatomy, rng=rng)
    contrasts = {
        "T1": _t1_contrast(anatomy, lesions, rng=rng),
        "FLAIR": _flair_contrast(anatomy, lesions, rng=rng),
    }
    channels = {name: _scanned(signal, anatomy.mask, rng=rng) for name, signal in contrasts.items()}
    is_lesion = (lesions >= 0.5).astype(np.uint8)
    return PhantomCase(
        channels, {"lesions": is_lesion, "tissue": _tissue(anatomy)}, anatomy.mask, anatomy.affine
    )


def write_cases(
    folder: Path,
    split: Mapping[str, int],
    *,
    seed: int,
    task: Task = "lesions",
    channels: Sequence[str] = CHANNELS,
    brain: Brain | None = None,
) -> list[Path]:
    """Write ``case01/``, ``case02/``, … and, for every entry of ``split``, a table of its cases.

    A case depends on ``seed``, its number and ``brain`` only; the same call writes the same bytes.

    Args:
        folder: Where the cases and tables go; made if it does not exist.
        split: Number of cases by name of the table, such as ``{"train": 8, "test": 2}``.
        seed: Of all cases together.
        task: Which labels become ``labels.nii.gz``.
        channels: That stand in the tables; ``T1`` and ``FLAIR`` are both written.
        brain: From which the cases are made; the MNI152 brain if None.

    Returns:
        The tables, in the order of ``split``, with the columns ``case``, ``labels``, ``roi`` and
        one for each channel, such as ``channel_T1``. Paths in a table are relative to it.

    Raises:
        DeepsegError: ``demo-extra-missing``, as `mni_brain`.
        OutputNotWritable: ``output-not-writable``, if the disk or the system refuses.
    """
    anatomy = mni_brain() if brain is None else brain
    folder.mkdir(parents=True, exist_ok=True)
    tables, number = [], 0
    for name, count in split.items():
        rows = [["case", *(f"channel_{channel}" for channel in channels), "labels", "roi"]]
        for _ in range(count):
            number += 1
            rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
            case = phantom_case(anatomy, rng=rng)
            place = folder / f"case{number:02d}"
            _write_case(place, case, task)
            files = (f"{place.name}/{file}.nii.gz" for file in (*channels, "labels", "brain"))
            rows.append([place.name, *files])
        tables.append(folder / f"{name}.csv")
        write_text(tables[-1], "".join(",".join(row) + "\n" for row in rows))
    return tables


def _extra_missing() -> DeepsegError:
    return DeepsegError(
        Problem(
            code="demo-extra-missing",
            got="no package nilearn, which carries the MNI152 brain",
            expected="the packages of the extra 'demo'",
            fix="pip install 'deepseg-pathways[demo]'",
        )
    )


def _halved(t1: FloatVolume, grey: FloatVolume, white: FloatVolume, *, affine: Affine) -> Brain:
    """A `Brain` of 2 mm from maps ``(X, Y, Z)`` of 1 mm: means of 2 x 2 x 2 voxels."""
    inside = np.argwhere(t1 > 0)
    start = inside.min(axis=0) - MARGIN_MM
    size = (inside.max(axis=0) + 1 + MARGIN_MM - start + 1) // 2

    def halved(volume: FloatVolume) -> FloatVolume:
        padded = np.pad(volume, 2 * MARGIN_MM)  # the template touches the lower end of its grid
        index = tuple(slice(a, a + 2 * n) for a, n in zip(start + 2 * MARGIN_MM, size, strict=True))
        x, y, z = size
        mean: FloatVolume = padded[index].reshape(x, 2, y, 2, z, 2).mean(axis=(1, 3, 5))
        return mean

    to_mm = affine.copy()
    to_mm[:3, :3] *= 2
    to_mm[:3, 3] += affine[:3, :3] @ (start + 0.5)  # centre of the first 2 x 2 x 2 voxels
    mask = ndimage.binary_fill_holes(halved((t1 > 0).astype(np.float32)) >= 0.5)
    return Brain(halved(t1), halved(grey), halved(white), np.asarray(mask, dtype=np.bool_), to_mm)


def _smooth_field(
    shape: tuple[int, ...], knots_mm: float, *, rng: np.random.Generator
) -> FloatVolume:
    """A random field ``(X, Y, Z)``, about -2 to 2, that varies over distances of ``knots_mm``."""
    knots = [max(4, round(n * VOXEL_MM / knots_mm) + 1) for n in shape]
    coarse = rng.standard_normal(knots, dtype=np.float32)
    # A spline along X, then Y, then Z is the same field in a tenth of the time of one in 3D.
    x, y, z = (_spline_weights(n, k) for n, k in zip(shape, knots, strict=True))
    field: FloatVolume = np.einsum("ai,bj,ck,ijk->abc", x, y, z, coarse, optimize=True)
    return field


def _spline_weights(size: int, knots: int) -> FloatVolume:
    """Weight ``(size, knots)`` of every knot in a cubic spline at ``size`` even places."""
    impulses = np.eye(knots, dtype=np.float32)
    weights: FloatVolume = ndimage.zoom(impulses, (size / knots, 1), order=3, mode="nearest")
    return weights


def _deformed(brain: Brain, *, rng: np.random.Generator) -> Brain:
    """``brain`` turned by a few degrees, scaled by a few percent and bent by a few millimetres."""
    shape = brain.mask.shape
    turn = Rotation.from_rotvec(rng.normal(0.0, 0.05, 3)).as_matrix()
    matrix = turn @ np.diag(1.0 + rng.uniform(-0.06, 0.06, 3))
    centre = (np.array(shape) - 1) / 2
    grid = np.indices(shape, dtype=np.float32).reshape(3, -1)
    places = (matrix @ (grid - centre[:, None]) + centre[:, None]).astype(np.float32)
    for axis in range(3):
        places[axis] += (2.5 / VOXEL_MM) * _smooth_field(shape, 32.0, rng=rng).ravel()

    def deformed(volume: FloatVolume) -> FloatVolume:
        new: FloatVolume = ndimage.map_coordinates(volume, places, order=1).reshape(shape)
        return new

    mask = deformed(brain.mask.astype(np.float32)) >= 0.5
    t1, grey, white = (deformed(volume) * mask for volume in (brain.t1, brain.grey, brain.white))
    return Brain(t1, grey, white, mask, brain.affine)


def _blob(radius_mm: float, *, rng: np.random.Generator) -> FloatVolume:
    """Fraction of each voxel of a cube that an irregular ball in its middle fills.

    The fraction falls from 1 to 0 over one voxel, as partial volume makes it do.
    """
    radius = radius_mm / VOXEL_MM
    longest, largest_bump = 1.3, 0.35
    reach = int(np.ceil(radius * longest * (1 + largest_bump))) + 1
    offsets = np.indices((2 * reach + 1,) * 3, dtype=np.float32) - reach
    turn = Rotation.from_rotvec(rng.normal(0.0, 1.0, 3)).as_matrix()
    axes = turn / rng.uniform(0.75, longest, (3, 1))
    distance = np.linalg.norm(np.tensordot(axes, offsets, axes=1), axis=0)
    bumps = 0.2 * _smooth_field(distance.shape, 1.2 * radius_mm, rng=rng)
    surface = radius * (1.0 + np.clip(bumps, -largest_bump, largest_bump))
    return np.asarray(np.clip(surface - distance + 0.5, 0.0, 1.0), dtype=np.float32)


def _blobs(
    weight: FloatVolume,
    count: int,
    *,
    radii_mm: tuple[float, float],
    rng: np.random.Generator,
) -> FloatVolume:
    """Fraction ``(X, Y, Z)`` of each voxel in blobs; ``weight`` is the chance to be a centre."""
    x, y, z = weight.shape
    filled = np.zeros_like(weight)
    chances = np.cumsum(weight.ravel(), dtype=np.float64)
    for _ in range(count):
        flat = np.searchsorted(chances, rng.uniform(0.0, chances[-1]), side="right")
        blob = _blob(rng.uniform(*radii_mm), rng=rng)
        reach = blob.shape[0] // 2
        a, b, c = (int(n) - reach for n in np.unravel_index(flat, weight.shape))
        region = Box((a, b, c), (2 * reach + 1,) * 3).within((x, y, z))
        inside = region.moved((-a, -b, -c)).slices
        filled[region.slices] = np.maximum(filled[region.slices], blob[inside])
    return filled


def _lesion_fraction(brain: Brain, *, rng: np.random.Generator) -> FloatVolume:
    """Fraction ``(X, Y, Z)`` of each voxel that lesions fill; they end where the fluid begins."""
    deep = ndimage.gaussian_filter(brain.white, 4.0 / VOXEL_MM) ** 3 * (brain.white > 0.5)
    blobs = _blobs(deep, int(rng.integers(3, 13)), radii_mm=(3.0, 9.0), rng=rng)
    solid = np.clip(brain.white + brain.grey, 0.0, 1.0)
    return np.asarray(blobs * solid**2, dtype=np.float32)


def _lookalikes(brain: Brain, *, rng: np.random.Generator) -> FloatVolume:
    """Likeness ``(X, Y, Z)``, from 0 to 1, of healthy voxels to lesions in FLAIR."""
    balls = _blobs(brain.grey**4, int(rng.integers(10, 26)), radii_mm=(3.0, 6.5), rng=rng)
    hot_spots = balls * brain.grey  # the part of a ball that is cortex is a thin shell
    core = ndimage.binary_erosion(brain.mask, iterations=round(24 / VOXEL_MM))
    ventricles = np.clip(1.0 - brain.grey - brain.white, 0.0, 1.0) * core
    lining = ndimage.gaussian_filter(ventricles, 2.0 / VOXEL_MM) * (1.0 - ventricles)
    return np.asarray(np.clip(hot_spots + rng.uniform(1.0, 2.5) * lining, 0.0, 1.0), np.float32)


def _t1_contrast(brain: Brain, lesions: FloatVolume, *, rng: np.random.Generator) -> FloatVolume:
    """T1 signal ``(X, Y, Z)``: fluid dark, grey matter below white, lesions at or below grey."""
    contrast = brain.t1 ** rng.uniform(0.85, 1.25)
    lesion = rng.uniform(0.45, 0.62)
    return np.asarray(contrast + lesions * (lesion - contrast), dtype=np.float32)


def _flair_contrast(brain: Brain, lesions: FloatVolume, *, rng: np.random.Generator) -> FloatVolume:
    """FLAIR signal ``(X, Y, Z)``: fluid dark, grey matter above white, lesions bright."""
    grey, white, fluid = 0.66, rng.uniform(0.46, 0.54), rng.uniform(0.08, 0.18)
    mixture = brain.grey * (grey - fluid) + brain.white * (white - fluid) + fluid
    furrows = np.clip((0.6 - brain.t1) / 0.5, 0.0, 1.0)  # narrower than the maps can tell
    healthy = mixture + furrows * (fluid - mixture)
    texture = 1.0 + 0.04 * _smooth_field(brain.mask.shape, 8.0, rng=rng)
    lesion = rng.uniform(0.8, 1.0) * (1.0 + 0.1 * _smooth_field(brain.mask.shape, 12.0, rng=rng))
    bright = np.maximum(lesions, _lookalikes(brain, rng=rng))
    return np.asarray(healthy * texture + bright * (lesion - healthy), dtype=np.float32)


def _scanned(signal: FloatVolume, mask: Mask, *, rng: np.random.Generator) -> FloatVolume:
    """``signal`` ``(X, Y, Z)`` as a scanner gives it: with bias field, Rician noise and gain."""
    bias = np.exp(0.09 * _smooth_field(signal.shape, 70.0, rng=rng))
    noise = rng.uniform(0.015, 0.04) * rng.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude = np.hypot(signal * bias + noise[0], noise[1])
    gain = rng.uniform(400.0, 1600.0)
    return np.asarray(np.rint(gain * magnitude) * mask, dtype=np.float32)


def _tissue(brain: Brain) -> LabelVolume:
    """Labels ``(X, Y, Z)`` of the likeliest tissue: 1 grey, 2 white matter, 0 everything else."""
    fluid = 1.0 - brain.grey - brain.white
    likeliest = np.argmax(np.stack([fluid, brain.grey, brain.white]), axis=0)
    return np.asarray(likeliest, dtype=np.uint8)


def _write_case(folder: Path, case: PhantomCase, task: Task) -> None:
    """Write the volumes of ``case``."""
    folder.mkdir(exist_ok=True)
    x, y, z = case.roi.shape
    grid = new_volume(case.roi, Geometry((x, y, z), case.affine))
    files: dict[str, NDArray[Any]] = {
        "T1.nii.gz": case.channels["T1"].astype(np.uint16),
        "FLAIR.nii.gz": case.channels["FLAIR"].astype(np.uint16),
        "labels.nii.gz": case.labels[task],
        "brain.nii.gz": case.roi,
    }
    for name, array in files.items():
        write_volume(folder / name, array, grid)
