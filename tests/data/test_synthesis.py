"""Synthetic images: what a case promises, on a small ball of a brain."""

import numpy as np
import pytest
from scipy import ndimage

from deepseg.data import synthesis
from deepseg.data.synthesis import (
    AIR,
    BACKGROUND,
    BONE,
    CORE,
    CSF,
    FAT,
    FLUID,
    GREY,
    LESION,
    MARROW,
    MATERIALS,
    MUSCLE,
    RIM,
    WHITE,
    Head,
    add_lesions,
    contrasted,
    deformed,
    head_around,
    head_tissues,
    labels_of,
    scanned,
    smooth_field,
    synthetic_case,
    thick_slices,
    tissue_map,
)  # fmt: skip

SHAPE, MARGIN, SIZE = (40, 46, 43), 16, (44, 50, 47)


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def head():
    """White matter in a shell of grey matter in a shell of fluid, and a head around it."""
    middle = (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2
    radius = np.linalg.norm(np.indices(SHAPE) - middle, axis=0)
    white, grey, brain = (np.clip(r - radius, 0, 1) for r in (12, 16, 18))
    maps = (volume.astype(np.float32) for volume in (grey - white, white))
    return head_around(*maps, brain > 0, margin=MARGIN)


@pytest.fixture(scope="module")
def cases(head):
    return [synthetic_case(head, SIZE, rng=generator(seed)) for seed in range(12)]


def test_a_case_follows_from_its_seed_alone(head, cases):
    again = synthetic_case(head, SIZE, rng=generator(3))
    assert np.array_equal(again.image, cases[3].image)
    assert np.array_equal(again.labels, cases[3].labels)
    assert not np.array_equal(cases[4].image, cases[3].image)


def test_images_are_whole_numbers_and_labels_are_classes(cases):
    for case in cases:
        assert (case.image.dtype, case.labels.dtype) == (np.uint16, np.uint8)
        assert case.image.shape == case.labels.shape == SIZE
        assert case.image.max() <= 6000
        assert case.labels.max() < len(synthesis.CLASSES)
    assert {int(n) for case in cases for n in np.unique(case.labels)} == set(range(5))


def test_about_half_of_the_cases_are_stripped_to_the_brain(cases):
    def is_stripped(case):
        far = ndimage.distance_transform_edt(case.labels == BACKGROUND) > 4
        return not case.image[far].any()

    assert 3 <= sum(is_stripped(case) for case in cases) <= 9


def halves(signal):
    """Means of two halves along Y, away from the border between them."""
    middle = signal.shape[1] // 2
    return signal[:, : middle - 3].mean(), signal[:, middle + 3 :].mean()


def test_no_tissue_has_a_brightness_of_its_own_but_two_are_never_alike():
    materials = np.full((12, 26, 14), GREY, np.uint8)
    materials[:, 13:] = WHITE
    pairs = [halves(contrasted(materials, rng=generator(seed))) for seed in range(40)]
    assert 12 <= sum(grey < white for grey, white in pairs) <= 28
    assert min(abs(grey - white) for grey, white in pairs) > 0.06
    materials[:, 13:] = LESION
    pairs = [halves(contrasted(materials, rng=generator(seed))) for seed in range(40)]
    assert 12 <= sum(grey < lesion for grey, lesion in pairs) <= 34
    assert min(abs(grey - lesion) for grey, lesion in pairs) > 0.06


def test_all_maps_are_deformed_alike(head):
    """A copy of a map stays its copy, and what is nested stays nested."""
    twins = Head(head.grey, head.grey, head.depth, head.depth)
    maps = deformed(twins, SIZE, rng=generator(5))
    assert np.array_equal(maps.grey, maps.white)
    assert np.array_equal(maps.depth, maps.body)
    maps = deformed(head, SIZE, rng=generator(5))
    assert not np.array_equal(maps.grey, head.grey)
    assert maps.depth[maps.white > 0.6].max() < -2


def test_a_deformed_head_shows_its_brain(head):
    for seed in range(6):
        maps = deformed(head, (20, 26, 23), rng=generator(seed))
        assert maps.depth.min() < -8


def test_distances_count_from_the_surface_of_the_brain(head):
    middle = np.array(head.depth.shape) // 2
    column = head.depth[middle[0], middle[1]]
    assert np.array_equal(np.diff(column[-20:]), np.ones(19))
    assert head.depth.shape == tuple(n + 2 * MARGIN for n in SHAPE)


def test_face_and_neck_are_below_the_brain_and_the_face_is_in_front(head):
    _, y, z = np.nonzero(head.body < 0)
    low = np.argwhere(head.depth < 0).min(axis=0)[2]
    assert (z < low).any()
    assert z.max() < head.body.shape[2] / 2
    assert y.mean() > head.body.shape[1] / 2


def test_what_surrounds_the_brain_lies_in_layers(head):
    maps = deformed(head, SIZE, rng=generator(1))
    far = Head(maps.grey, maps.white, maps.depth, np.full(SIZE, 99, np.float32))
    materials = head_tissues(far, rng=generator(2))
    medians = [np.median(maps.depth[materials == m]) for m in (FLUID, BONE, MUSCLE, FAT, AIR)]
    assert medians == sorted(medians)
    assert set(np.unique(materials)) <= {FLUID, BONE, MARROW, MUSCLE, FAT, AIR}


def test_lesions_lie_in_the_brain_and_count_as_one_class(head):
    kinds = set()
    for seed in range(12):
        maps = deformed(head, SIZE, rng=generator(seed))
        healthy = tissue_map(maps, rng=generator(seed))
        healthy[maps.depth > 0] = BONE
        materials = healthy.copy()
        add_lesions(materials, maps, rng=generator(seed))
        changed = materials != healthy
        kinds |= {int(n) for n in np.unique(materials[changed])}
        assert not changed[healthy == BONE].any()
        assert np.array_equal(labels_of(materials) == LESION, changed)
    assert kinds == {LESION, RIM, CORE}


def test_every_material_has_a_class():
    classes = labels_of(np.arange(MATERIALS, dtype=np.uint8))
    assert classes.tolist() == [0, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 4, 4]


def test_a_field_varies_slowly_and_has_no_direction():
    field = smooth_field((40, 50, 60), 20.0, rng=generator())
    steps = [np.abs(np.diff(field, axis=axis)).mean() for axis in range(3)]
    assert max(steps) < 0.2 * field.std()
    assert max(steps) < 2 * min(steps)


def test_thick_slices_keep_a_ramp_in_the_middle_and_blur_a_step():
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (3, 4, 30)).copy()
    assert np.allclose(thick_slices(ramp, 2, 4.0)[:, :, 8:22], ramp[:, :, 8:22], atol=0.6)
    assert np.allclose(thick_slices(np.full((3, 20, 5), 2.5, np.float32), 1, 3.0), 2.5)
    step = (ramp >= 15).astype(np.float32)
    thin, thick = (np.abs(np.diff(thick_slices(step, 2, mm))).max() for mm in (2.0, 6.0))
    assert thick < thin < 1


def test_a_scanner_gives_no_negative_signal_and_keeps_the_order_of_tissues():
    signal = np.linspace(0, 1, 24 * 26 * 28, dtype=np.float32).reshape(24, 26, 28)
    for seed in range(8):
        image = scanned(signal, rng=generator(seed))
        assert image.min() >= 0
        assert np.isfinite(image).all()
        assert image[-4:].mean() > image[:4].mean()


def test_air_is_dark_and_fluid_around_the_brain_need_not_be():
    materials = np.full((9, 10, 11), AIR, np.uint8)
    assert not contrasted(materials, rng=generator()).any()
    assert contrasted(np.full_like(materials, CSF), rng=generator()).mean() > 0.04
