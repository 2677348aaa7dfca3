"""Pictures of segmentations: which slice, which way up, which colour at which pixel."""

import numpy as np
import pytest
from PIL import Image

from deepseg.report.figure import shortened
from deepseg.report.overlay import (
    COLOURS,
    FILL,
    colour,
    grey_levels,
    grey_window,
    overlay,
    resized,
    resized_labels,
    slice_of,
    slice_size,
)
from deepseg.report.picture import (
    TILE,
    CasePicture,
    legend,
    slices_to_show,
    write_gallery,
    write_picture,
)
from deepseg.report.sheet import GAP, LEFT, SWATCH, TOP, SheetRow, cells, legend_cells

SHAPE = (20, 30, 10)
CLASSES = ["background", "oedema", "core"]


def blob(label=1, at=(5, 20, 7), size=(3, 4, 2)):
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[tuple(slice(a, a + n) for a, n in zip(at, size, strict=True))] = label
    return labels


def case(truth=None, segmentation=None, **changes):
    empty = np.zeros(SHAPE, dtype=np.uint8)
    image = np.zeros(SHAPE)
    return CasePicture(
        name=changes.get("name", "case"),
        image=image,
        spacing_mm=(1, 1, 1),
        segmentation=empty if segmentation is None else segmentation,
        truth=truth,
    )


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def is_near(found, expected, tolerance=16):
    return np.abs(np.asarray(found) - np.asarray(expected)).max() <= tolerance


def test_the_slices_with_most_foreground_are_shown():
    truth = blob(at=(5, 20, 7), size=(1, 1, 1)) + blob(at=(12, 2, 3), size=(1, 5, 2))
    truth[12, 4, 4] = 0
    assert slices_to_show(case(truth)) == (12, 2, 3)


def test_the_reference_decides_then_the_segmentation_then_the_middle():
    first, second = blob(at=(1, 2, 3), size=(1, 1, 1)), blob(at=(4, 5, 6), size=(1, 1, 1))
    empty = np.zeros(SHAPE, dtype=np.uint8)
    assert slices_to_show(case(first, second)) == (1, 2, 3)
    assert slices_to_show(case(None, second)) == (4, 5, 6)
    assert slices_to_show(case(empty, second)) == (4, 5, 6)
    assert slices_to_show(case(empty, empty)) == (10, 15, 5)


@pytest.mark.parametrize(
    ("plane", "shape", "corner"),
    [
        pytest.param("axial", (30, 20), (19, 29, 7), id="right and front of the patient"),
        pytest.param("coronal", (10, 20), (19, 7, 9), id="right and top of the patient"),
        pytest.param("sagittal", (10, 30), (7, 29, 9), id="front and top of the patient"),
    ],
)
def test_what_is_in_the_upper_left_corner_of_a_slice(plane, shape, corner):
    volume = np.zeros(SHAPE)
    volume[corner] = 1
    shown = slice_of(volume, plane, 7)
    assert shown.shape == shape
    assert shown[0, 0] == 1
    assert shown.sum() == 1


def test_pixels_are_square_though_voxels_are_not():
    spacing = (0.5, 2.0, 4.0)  # 10 x 60 x 40 mm
    assert slice_size(SHAPE, spacing, "axial", 120) == (120, 20)
    assert slice_size(SHAPE, spacing, "coronal", 120) == (80, 20)
    assert slice_size(SHAPE, spacing, "sagittal", 120) == (80, 120)


def test_a_slice_has_at_least_one_pixel():
    assert slice_size((1, 512, 300), (1, 1, 1), "axial", 100) == (100, 1)


def test_resizing_keeps_a_ramp_a_ramp_and_its_mean():
    ramp = np.arange(12.0)[:, None] * np.ones(5)
    larger = resized(ramp, 36, 5)
    assert np.allclose(np.diff(larger[2:-2, 0]), 1 / 3)
    assert np.allclose(resized(ramp, 3, 5).mean(), ramp.mean())


def test_shrinking_loses_no_voxel():
    for row in range(64):
        image = np.zeros((64, 5))
        image[row] = 1
        assert 0.2 / 64 < resized(image, 8, 5).mean() < 2.5 / 64


def test_resized_labels_are_voxels_enlarged():
    labels = np.array([[0, 1, 2], [3, 0, 1]])
    assert (resized_labels(labels, 8, 9) == labels.repeat(4, axis=0).repeat(3, axis=1)).all()


def test_shrunk_labels_are_those_in_the_middle():
    assert resized_labels(np.arange(9)[:, None], 3, 1).ravel().tolist() == [1, 4, 7]


def test_grey_runs_from_the_low_to_the_high_end_of_the_window():
    values = np.array([0.0, 10.0, 15.0, 20.0, 99.0, np.nan])
    assert grey_levels(values, (10, 20)).tolist() == [0, 0, 0.5, 1, 1, 0]


def test_a_few_extreme_voxels_do_not_darken_the_picture():
    image = np.random.default_rng(3).uniform(100, 200, (30, 40, 50))
    image[0, 0, :5] = 1e6
    image[1, 0, :5] = -1e6
    low, high = grey_window(image)
    assert 99 < low < 102
    assert 198 < high < 201


def test_air_does_not_brighten_the_picture():
    image = np.zeros((30, 40, 50))
    image[:3, :3, :3] = np.random.default_rng(3).uniform(100, 200, (3, 3, 3))
    assert grey_window(image)[1] > 190


@pytest.mark.parametrize("value", [7.0, np.nan])
def test_a_constant_image_is_black(value):
    image = np.full((3, 4, 5), value)
    assert (grey_levels(image, grey_window(image)) == 0).all()


def test_a_class_is_a_transparent_area_with_an_opaque_border():
    labels = np.zeros((7, 9), dtype=np.int64)
    labels[1:6, 2:7] = 2
    shown = overlay(np.full((7, 9), 0.5), labels)
    inside = np.round((1 - FILL) * 127.5 + FILL * np.array(COLOURS[1]))
    assert shown[0, 0].tolist() == [128, 128, 128]
    assert shown[1, 2].tolist() == shown[3, 6].tolist() == list(COLOURS[1])
    assert (shown[2:5, 3:6] == inside).all()


def test_the_edge_of_a_slice_is_no_border():
    shown = overlay(np.zeros((4, 5)), np.ones((4, 5), dtype=np.int64))
    assert (shown == np.round(FILL * np.array(COLOURS[0]))).all()


def test_every_class_but_the_background_is_in_the_legend_in_its_colour():
    assert legend(CLASSES) == [("oedema", COLOURS[0]), ("core", COLOURS[1])]
    assert colour(len(COLOURS) + 1) == COLOURS[0]


def test_hundreds_of_classes_are_counted_only():
    assert legend(["c"] * 300) == [("299 classes, whose colours repeat", None)]


def test_cells_are_as_large_as_the_largest_tile_of_row_and_column():
    def tile(height, width):
        return np.zeros((height, width, 3), dtype=np.uint8)

    rows = [SheetRow("a", (tile(10, 20), tile(30, 5))), SheetRow("b", (tile(7, 8), None))]
    (first, second), (third, fourth) = cells(rows)
    assert [(c.width, c.height) for c in (first, second, third, fourth)] == [
        (20, 30),
        (5, 30),
        (20, 7),
        (5, 7),
    ]
    assert (first.left, first.top) == (LEFT, TOP)
    assert (second.left, third.top) == (LEFT + 20 + GAP, TOP + 30 + GAP)
    assert first.around(tile(10, 16)) == (slice(TOP + 10, TOP + 20), slice(LEFT + 2, LEFT + 18))


def test_a_column_without_any_tile_is_as_wide_as_the_widest():
    tile = np.zeros((10, 20, 3), dtype=np.uint8)
    assert [c.width for c in cells([SheetRow("a", (tile, None))])[0]] == [20, 20]


@pytest.mark.parametrize("names", [["a" * 500] * 3, ["b"] * 40, []])
def test_legend_entries_stay_within_the_sheet_and_apart(names):
    entries = legend_cells(names, 100, 480)
    assert len({(e.left, e.top) for e in entries}) == len(names)
    assert all(e.left >= LEFT and e.left + e.width <= 480 for e in entries)


def test_long_names_lose_their_middle():
    assert shortened("case_0001", 9) == "case_0001"
    assert shortened("subject_0001_session_02", 11) == "subj...n_02"


def test_the_picture_shows_reference_and_segmentation_where_they_are(tmp_path):
    truth, segmentation = blob(1), blob(2, at=(5, 20, 7), size=(6, 4, 2))
    file = tmp_path / "case.png"
    write_picture(
        file,
        np.zeros(SHAPE),
        spacing_mm=(1, 1, 1),
        truth=truth,
        segmentation=segmentation,
        classes=CLASSES,
        title="case",
    )
    sheet = pixels(file)
    scale = TILE // 30  # pixels a voxel: 9
    tile = (30 * scale, 20 * scale)  # axial

    def at(row, x, y):
        """Pixel in the middle of voxel (x, y) in the axial column."""
        top = TOP + row * (tile[0] + GAP)
        return sheet[top + (29 - y) * scale + scale // 2, LEFT + (19 - x) * scale + scale // 2]

    oedema, core = (FILL * np.array(c) for c in COLOURS[:2])
    assert is_near(at(0, 6, 21), (0, 0, 0))
    assert is_near(at(1, 6, 21), oedema)
    assert is_near(at(1, 9, 21), (0, 0, 0))
    assert is_near(at(2, 6, 21), core)
    assert is_near(at(2, 9, 21), core)
    assert is_near(at(2, 9, 19), (0, 0, 0))
    coronal_top = TOP + tile[0] + GAP + (tile[0] - 10 * scale) // 2
    coronal_left = LEFT + tile[1] + GAP
    half = scale // 2
    result = sheet[coronal_top + (9 - 8) * scale + half, coronal_left + (19 - 6) * scale + half]
    assert is_near(result, oedema)
    assert list(tmp_path.iterdir()) == [file]


def test_the_legend_shows_the_colours_of_the_classes(tmp_path):
    write_gallery(tmp_path / "g.png", [case()], classes=CLASSES, title="")
    sheet = pixels(tmp_path / "g.png")
    first = TOP + TILE + GAP + 13
    assert is_near(sheet[first, LEFT + SWATCH // 2], COLOURS[0])


def test_a_picture_without_reference_has_one_row_less(tmp_path):
    heights = []
    for truth in (blob(), None):
        write_picture(
            tmp_path / "case.png",
            np.zeros(SHAPE),
            spacing_mm=(1, 1, 1),
            truth=truth,
            segmentation=blob(),
            classes=CLASSES,
            title="case",
        )
        heights.append(pixels(tmp_path / "case.png").shape[0])
    assert heights[0] - heights[1] == TILE + GAP


def test_a_gallery_has_a_row_for_every_case_with_or_without_reference(tmp_path):
    heights = []
    for cases in ([case(blob(), blob())], [case(blob(), blob()), case(None, blob())]):
        write_gallery(tmp_path / "g.png", cases, classes=CLASSES, title="all")
        heights.append(pixels(tmp_path / "g.png").shape[0])
    assert heights[1] - heights[0] == TILE + GAP


def test_noise_all_over_still_makes_a_small_file(tmp_path):
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 5, (12, 12, 12)).repeat(10, 0).repeat(10, 1).repeat(10, 2)
    write_picture(
        tmp_path / "noise.png",
        rng.normal(size=(120, 120, 120)),
        spacing_mm=(1, 1, 1),
        truth=labels,
        segmentation=labels,
        classes=list("abcde"),
        title="noise",
    )
    assert (tmp_path / "noise.png").stat().st_size < 400_000


@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [((30, 20, 1), (1, 1, 5)), ((1, 1, 1), (1, 1, 1)), ((3, 700, 2), (1, 1, 1))],
)
def test_odd_shapes_labels_and_names_are_drawn(shape, spacing_mm, tmp_path):
    write_picture(
        tmp_path / "odd.png",
        np.ones(shape, dtype=np.int16),
        spacing_mm=spacing_mm,
        truth=np.full(shape, 9.0),
        segmentation=np.ones(shape, dtype=bool),
        classes=["only background"],
        title="$x^$ 病 " + "long" * 100,
    )
    assert (tmp_path / "odd.png").exists()
