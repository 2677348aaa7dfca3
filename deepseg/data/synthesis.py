"""Images of random contrast from maps of a head: shape, lesions, scanner, and the labels they have.

Every case draws the intensity of each tissue anew, so that whatever learns from many of them learns
what tissues look like, and not how bright they are. The principle is that of SynthSeg: B. Billot et
al., Medical Image Analysis 86, 2023, doi:10.1016/j.media.2023.102789. Nothing here knows of files,
sessions or networks.

Distances are in voxels, which are meant to be about 1 mm long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from deepseg.geometry.boxes import Box

FloatVolume: TypeAlias = NDArray[np.float32]
LabelVolume: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]

CLASSES = ("background", "csf", "grey", "white", "lesion")
BACKGROUND, CSF, GREY, WHITE, LESION = range(5)
# Materials beside the classes: what lies around the brain, from inside to outside, and the air.
FLUID, BONE, MARROW, MUSCLE, FAT, AIR = range(5, 11)
RIM, CORE = 11, 12  # parts of a lesion
MATERIALS = 13

# Orders of grey, white and fluid from dark to bright that scanners make; the others are as likely
# as one of these.
ORDERS = ((CSF, GREY, WHITE), (WHITE, GREY, CSF), (CSF, WHITE, GREY))


@dataclass(frozen=True)
class Head:
    """Maps of a head on one grid; all arrays are ``(X, Y, Z)``.

    Attributes:
        grey: Probability of grey matter.
        white: Probability of white matter.
        depth: Signed distance from the surface of the brain, below 0 inside it.
        body: Signed distance from the surface of face and neck, below 0 inside them.
    """

    grey: FloatVolume
    white: FloatVolume
    depth: FloatVolume
    body: FloatVolume


@dataclass(frozen=True)
class SyntheticCase:
    """An image and its truth; both are ``(X, Y, Z)``.

    Attributes:
        image: Whole numbers from 0, as a scanner stores them; 0 outside a brain without its head.
        labels: Numbers of `CLASSES`.
    """

    image: NDArray[np.uint16]
    labels: LabelVolume


def head_around(grey: FloatVolume, white: FloatVolume, brain: Mask, *, margin: int = 40) -> Head:
    """The head around a brain, with room of ``margin`` voxels on every side.

    Axes grow to the right, to the front and upwards; the face lies before and below the brain, the
    neck below it.

    >>> brain = np.zeros((4, 5, 6), bool)
    >>> brain[2, 2, 2] = True
    >>> head = head_around(brain.astype(np.float32), 0 * brain.astype(np.float32), brain, margin=3)
    >>> head.depth.shape, float(head.depth[5, 5, 5]), float(head.depth[5, 5, 8])
    ((10, 11, 12), -1.0, 3.0)
    """
    mask = np.pad(brain, margin)
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    depth = np.asarray(outside - inside, dtype=np.float32)
    body = _face_and_neck(mask)
    return Head(np.pad(grey, margin), np.pad(white, margin), depth, body)


def _face_and_neck(mask: Mask) -> FloatVolume:
    """Signed distance ``(X, Y, Z)``, roughly, from an ellipsoid and a tube below the brain."""
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    middle, half = (low + high) / 2, (high - low) / 2
    x, y, z = (
        (np.arange(n, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)]) - m) / h
        for axis, (n, m, h) in enumerate(zip(mask.shape, middle, half, strict=True))
    )
    face = np.sqrt((x / 0.8) ** 2 + ((y - 0.65) / 0.6) ** 2 + ((z + 1.1) / 0.9) ** 2) - 1
    neck = np.maximum(np.sqrt((x / 0.75) ** 2 + ((y + 0.2) / 0.75) ** 2) - 1, z + 0.3)
    return np.asarray(np.minimum(face, neck) * half.min() * 0.7, dtype=np.float32)


def smooth_field(shape: Sequence[int], distance: float, *, rng: np.random.Generator) -> FloatVolume:
    """A random field ``(X, Y, Z)``, about -2 to 2, that varies over ``distance`` voxels.

    >>> field = smooth_field((4, 5, 6), 3.0, rng=np.random.default_rng(0))
    >>> field.shape, field.dtype
    ((4, 5, 6), dtype('float32'))
    """
    knots = [max(4, round(n / distance) + 1) for n in shape]
    coarse = rng.standard_normal(knots, dtype=np.float32)
    for axis, (n, k) in enumerate(zip(shape, knots, strict=True)):
        weights = _spline_weights(n, k)
        coarse = np.moveaxis(np.tensordot(weights, coarse, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(coarse)


def _spline_weights(size: int, knots: int) -> FloatVolume:
    """Weight ``(size, knots)`` of every knot in a cubic spline at ``size`` even places."""
    zoomed = ndimage.zoom(
        np.eye(knots, dtype=np.float32), (size / knots, 1), order=3, mode="nearest"
    )
    return np.asarray(zoomed, dtype=np.float32)


def synthetic_case(head: Head, size: Sequence[int], *, rng: np.random.Generator) -> SyntheticCase:
    """A case of ``size`` voxels, cut at a random place around the middle of the brain.

    Half of the cases show the brain alone, as programs that strip the skull leave it.
    """
    maps = deformed(head, size, rng=rng)
    materials = tissue_map(maps, rng=rng)
    is_brain = maps.depth < rng.uniform(-1.0, 1.0)
    materials[~is_brain] = head_tissues(maps, rng=rng)[~is_brain]
    add_lesions(materials, maps, rng=rng)
    labels = labels_of(materials)
    image = scanned(contrasted(materials, rng=rng), rng=rng)
    if rng.random() < 0.5:
        image *= maps.depth < rng.uniform(0.0, 2.0)
    return SyntheticCase(_whole_numbers(image), labels)


def labels_of(materials: LabelVolume) -> LabelVolume:
    """The class of every voxel: what surrounds the brain is background, parts of a lesion are one.

    >>> labels_of(np.array([[[GREY, LESION, RIM, CORE, BONE, AIR]]], np.uint8)).ravel().tolist()
    [2, 4, 4, 4, 0, 0]
    """
    table = np.zeros(MATERIALS, np.uint8)
    table[[CSF, GREY, WHITE, LESION, RIM, CORE]] = [CSF, GREY, WHITE, LESION, LESION, LESION]
    return np.asarray(table[materials])


def deformed(head: Head, size: Sequence[int], *, rng: np.random.Generator) -> Head:
    """``head`` turned, scaled, bent and cut to ``size``, around a random place of its brain.

    All maps move alike: what lies in one place stays in one place.
    """
    turn = Rotation.from_rotvec(rng.normal(0.0, 0.15, 3)).as_matrix()
    matrix = turn @ np.diag(rng.uniform(0.82, 1.2) * rng.uniform(0.92, 1.08, 3))
    inside = np.argwhere(head.depth < 0)
    low, high = inside.min(axis=0), inside.max(axis=0)
    reach = np.maximum((high - low) * 0.5 - np.array(size) * 0.35, 0.0)
    centre = (low + high) / 2 + rng.uniform(-reach, reach)
    grid = np.indices(size, dtype=np.float32).reshape(3, -1)
    grid -= (np.array(size, dtype=np.float32)[:, None] - 1) / 2
    places = (matrix @ grid + centre[:, None]).astype(np.float32)
    for distance, amount in ((40.0, 3.5), (14.0, 1.2)):
        strength = amount * rng.uniform(0.3, 1.0)
        for axis in range(3):
            places[axis] += strength * smooth_field(size, distance, rng=rng).ravel()

    def moved(volume: FloatVolume, outside: float) -> FloatVolume:
        new = ndimage.map_coordinates(volume, places, order=1, cval=outside)
        return np.asarray(new, dtype=np.float32).reshape(size)

    far = float(max(head.depth.shape))
    maps = ((head.grey, 0.0), (head.white, 0.0), (head.depth, far), (head.body, far))
    return Head(*(moved(volume, outside) for volume, outside in maps))


def tissue_map(head: Head, *, rng: np.random.Generator) -> LabelVolume:
    """Fluid, grey or white matter of every voxel: the likeliest one, after noise on the odds.

    The noise makes furrows and borders that the mean of many brains no longer has.
    """
    probabilities = (np.clip(1.0 - head.grey - head.white, 0.0, 1.0), head.grey, head.white)
    strength, distance = rng.uniform(0.2, 1.2), rng.uniform(3.0, 8.0)
    odds = [
        np.log(p + 0.02) + strength * smooth_field(p.shape, distance, rng=rng)
        for p in probabilities
    ]
    return np.asarray(np.argmax(odds, axis=0) + CSF, dtype=np.uint8)


def head_tissues(head: Head, *, rng: np.random.Generator) -> LabelVolume:
    """Fluid, bone, marrow, muscle, fat or air: the material of every voxel outside the brain."""
    shape = head.depth.shape
    ends = np.cumsum(rng.uniform((0.0, 1.5, 1.0, 1.0, 0.5, 1.5), (3.0, 3.5, 4.0, 3.0, 4.0, 6.0)))
    layers = (FLUID, BONE, MARROW, BONE, MUSCLE, FAT, AIR)
    depth = head.depth + 1.5 * smooth_field(shape, 20.0, rng=rng)
    materials = np.asarray(layers, dtype=np.uint8)[np.searchsorted(ends, depth)]
    flesh = np.array([MUSCLE, FAT, BONE, AIR, MARROW, FLUID], dtype=np.uint8)
    pieces = flesh[
        np.argmax([smooth_field(shape, rng.uniform(8.0, 24.0), rng=rng) for _ in flesh], axis=0)
    ]
    in_body = (head.body < 3.0 * smooth_field(shape, 25.0, rng=rng)) & (depth > ends[1])
    materials[in_body] = pieces[in_body]
    return materials


def add_lesions(materials: LabelVolume, head: Head, *, rng: np.random.Generator) -> None:
    """Put lesions into a third to all of the brains: many small ones, or few large ones with parts.

    Args:
        materials: ``(X, Y, Z)``, changed in place; only inside the brain.
        head: Its maps.
        rng: Of the case.
    """
    if rng.random() < 0.2:
        return
    is_large = rng.random() < 0.55
    count = int(rng.integers(1, 3) if is_large else rng.integers(2, 14))
    radii = (9.0, 26.0) if is_large else (1.5, 8.0)
    solid = np.flatnonzero((head.white + 0.4 * head.grey > 0.5) & (head.depth < -3))
    if not solid.size:
        return
    for place in rng.choice(solid, count):
        centre = np.unravel_index(place, materials.shape)
        _add_lesion(materials, [int(n) for n in centre], rng.uniform(*radii), rng=rng)


def _add_lesion(
    materials: LabelVolume, centre: Sequence[int], radius: float, *, rng: np.random.Generator
) -> None:
    """One lesion with an uneven surface, and, if it is large, perhaps with a rim and a core."""
    reach = int(np.ceil(1.8 * radius)) + 1
    a, b, c = (n - reach for n in centre)
    whole = Box((a, b, c), (2 * reach + 1,) * 3)
    x, y, z = materials.shape
    region = whole.within((x, y, z))
    turn = Rotation.from_rotvec(rng.normal(0.0, 1.0, 3)).as_matrix()
    axes = turn / rng.uniform(0.7, 1.35, (3, 1))
    offsets = np.indices(whole.size, dtype=np.float32) - reach
    distance = np.linalg.norm(np.tensordot(axes, offsets, axes=1), axis=0)
    bumps = smooth_field(distance.shape, max(2.0, 0.5 * radius), rng=rng)
    bumps += smooth_field(distance.shape, max(2.0, 0.2 * radius), rng=rng)
    height = (1 + 0.14 * bumps - distance / radius)[region.moved((-a, -b, -c)).slices]
    voxels = materials[region.slices]
    brain = np.isin(voxels, (CSF, GREY, WHITE, LESION))
    solid = np.isin(voxels, (GREY, WHITE, LESION)) | (height > 0.25)
    voxels[(height > 0) & brain & solid] = LESION
    if radius > 6 and rng.random() < 0.75:
        rim = rng.uniform(0.15, 0.5)
        voxels[(height > rim) & brain] = RIM
        voxels[(height > rim + rng.uniform(0.05, 0.3)) & brain] = CORE


def contrasted(materials: LabelVolume, *, rng: np.random.Generator) -> FloatVolume:
    """The signal ``(X, Y, Z)``, about 0 to 1, with an intensity and a texture for each material."""
    means = rng.uniform(0.05, 1.0, MATERIALS).astype(np.float32)
    means[[CSF, GREY, WHITE]] = _tissue_means(rng)
    means[AIR] = 0.0
    means[BONE] *= rng.choice([0.2, 1.0], p=[0.8, 0.2])
    for part in (LESION, RIM, CORE):
        means[part] = _lesion_mean(means, rng)
    textures = rng.uniform(0.0, 0.07, MATERIALS).astype(np.float32)
    textures[[LESION, RIM, CORE]] *= 2
    textures[AIR] = 0.0
    pattern = smooth_field(materials.shape, rng.uniform(2.5, 9.0), rng=rng)
    signal = means[materials] + textures[materials] * pattern
    return np.asarray(ndimage.gaussian_filter(signal, rng.uniform(0.4, 0.9)), dtype=np.float32)


def _tissue_means(rng: np.random.Generator) -> NDArray[np.float64]:
    """Intensities of fluid, grey and white matter, of which no two are alike."""
    while True:
        means = rng.uniform(0.05, 1.0, 3)
        order = int(rng.integers(len(ORDERS) + 1))
        if order < len(ORDERS):
            means[np.array(ORDERS[order]) - CSF] = np.sort(means)
        if abs(means[GREY - CSF] - means[WHITE - CSF]) > 0.08 and np.ptp(means) > 0.25:
            return means


def _lesion_mean(means: FloatVolume, rng: np.random.Generator) -> float:
    """An intensity that is not that of grey or white matter."""
    while True:
        mean = float(rng.uniform(0.02, 1.2))
        if min(abs(mean - means[GREY]), abs(mean - means[WHITE])) > 0.1:
            return mean


def scanned(signal: FloatVolume, *, rng: np.random.Generator) -> FloatVolume:
    """``signal`` as a scanner gives it: gamma, bias field, ghost, thick slices, Rician noise."""
    image = np.clip(signal, 0.0, None) ** rng.uniform(0.75, 1.35)
    image *= np.exp(rng.uniform(0.0, 0.2) * smooth_field(image.shape, 80.0, rng=rng))
    if rng.random() < 0.2:  # of a patient who moved
        axis, shift = int(rng.integers(3)), int(rng.integers(8, 60))
        image += rng.uniform(0.02, 0.1) * np.roll(image, shift, axis)
    noise = rng.uniform(0.0, 0.05) * rng.standard_normal((2, *image.shape), dtype=np.float32)
    if rng.random() < 0.45:
        image = thick_slices(image, int(rng.integers(3)), float(rng.uniform(2.0, 6.0)))
        noise *= 0.6
    return np.asarray(np.hypot(image + noise[0], noise[1]), dtype=np.float32)


def thick_slices(image: FloatVolume, axis: int, thickness: float) -> FloatVolume:
    """``image`` as slices of ``thickness`` voxels along ``axis`` show it, on the grid it had.

    >>> ramp = np.arange(12, dtype=np.float32).reshape(1, 1, 12)
    >>> thick_slices(ramp, 2, 3.0).shape
    (1, 1, 12)
    """
    n = image.shape[axis]
    blurred = ndimage.gaussian_filter1d(image, thickness / 2.355, axis)
    slices = np.arange(thickness / 2, n, thickness) - 0.5
    begin = np.clip(np.searchsorted(slices, np.arange(n)) - 1, 0, max(0, len(slices) - 2))
    end = np.minimum(begin + 1, len(slices) - 1)
    step = np.maximum(slices[end] - slices[begin], 1e-6)
    share = np.clip((np.arange(n) - slices[begin]) / step, 0.0, 1.0)
    share = share.reshape([-1 if a == axis else 1 for a in range(3)]).astype(np.float32)
    places = np.rint(slices).astype(int).clip(0, n - 1)
    sampled = np.take(blurred, places, axis)
    mixed = (1 - share) * np.take(sampled, begin, axis) + share * np.take(sampled, end, axis)
    return np.asarray(mixed, dtype=np.float32)


def _whole_numbers(image: FloatVolume) -> NDArray[np.uint16]:
    return np.asarray(np.rint(np.clip(image, 0.0, 6.0) * 1000.0), dtype=np.uint16)
