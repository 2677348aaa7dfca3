"""Comparison: the numbers of groups by hand arithmetic, and what the picture shows of them."""

import csv
import io

import numpy as np
import pytest
from PIL import Image

from deepseg.report.comparison import (
    ScoredRun,
    SeedGroup,
    comparison_csv,
    comparison_record,
    comparison_rows,
    weakest_best,
)
from deepseg.report.comparison_picture import HEIGHT, WIDTH, write_comparison_picture


def run(seed, *scores, every=1, epochs=None, seconds=30.0):
    """A session that was judged ``every`` so many epochs."""
    epochs = len(scores) * every if epochs is None else epochs
    judged = {every * number: score for number, score in enumerate(scores, start=1)}
    folder = f"runs/start-seed{seed}"
    return ScoredRun(folder, seed, judged, epochs, steps_per_epoch=20, seconds=seconds)


SLOW = SeedGroup("scratch", (run(0, 0.125, 0.25, 0.5), run(1, 0.25, 0.75, 0.625)))
FAST = SeedGroup("transferred", (run(7, 0.5, 0.875, 0.75, every=2, seconds=54.0),))


def test_a_group_of_seeds_has_a_row_of_means_above_one_for_each():
    assert comparison_rows([SLOW, FAST], 0.625) == [
        ["scratch", "2", "-", "0.625±0.177", "0.562±0.088", "2 (1/2)", "3", "20", "10"],
        ["  seed 0", "", "-", "0.500", "0.500", "never", "3", "20", "10"],
        ["  seed 1", "", "-", "0.750", "0.625", "2", "3", "20", "10"],
        ["transferred, seed 7", "1", "-", "0.875", "0.750", "4", "6", "20", "9"],
    ]


def test_a_score_is_reached_in_the_first_epoch_that_has_it():
    assert [SLOW.runs[1].first_epoch_with(score) for score in (0.25, 0.26, 0.75, 0.76)] == [
        1,
        2,
        2,
        None,
    ]


def test_a_score_that_no_seed_reaches_is_never_reached():
    assert comparison_rows([SLOW], 0.8)[0][5] == "never"


def test_the_first_of_equal_bests_counts():
    assert run(0, 0.5, 0.75, 0.75).best_epoch == 2


def test_a_harmful_training_is_not_as_good_as_its_start():
    tuned = ScoredRun("runs/a", 0, {0: 0.927, 1: 0.25, 2: 0.335}, 2, 10, 5.0)
    assert (tuned.start, tuned.best, tuned.best_epoch, tuned.last) == (0.927, 0.335, 2, 0.335)
    assert comparison_rows([SeedGroup("a", (tuned,))], 0.5)[0][2:6] == [
        *("0.927", "0.335", "0.335", "0"),
    ]


def test_all_are_held_against_the_best_of_the_weakest_group():
    assert weakest_best([FAST, SLOW]) == 0.625
    assert weakest_best([SeedGroup("a", (run(0, 0.12399),)), FAST]) == 0.123


def test_epochs_in_which_one_seed_was_not_judged_are_not_common():
    group = SeedGroup("a", (run(0, 0.1, 0.2, 0.3), run(1, 0.4, every=2)))
    assert group.common_epochs == (2,)


def test_the_record_holds_every_number():
    record = comparison_record([SLOW, FAST], metric="Dice", reach=0.625)
    assert (record["metric"], record["reach"]) == ("Dice", 0.625)
    slow, fast = record["groups"]
    assert slow["best"] == {"mean": 0.625, "standard_deviation": pytest.approx(0.125 * 2**0.5)}
    assert slow["epochs_to_reach"] == {"mean": 2, "sessions": 1}
    assert fast["last"] == {"mean": 0.75, "standard_deviation": None}
    assert fast["sessions"] == [
        {
            "folder": "runs/start-seed7",
            "seed": 7,
            "start": None,
            "best": 0.875,
            "best_epoch": 4,
            "last": 0.75,
            "epochs_to_reach": 4,
            "epochs": 6,
            "steps_per_epoch": 20,
            "seconds": 54.0,
            "scores": {"2": 0.5, "4": 0.875, "6": 0.75},
            "classes": {},
            "cases": {},
        }
    ]
    nobody = comparison_record([SLOW], metric="Dice", reach=0.8)["groups"][0]["epochs_to_reach"]
    assert nobody == {"mean": None, "sessions": 0}


def test_the_table_file_has_a_line_for_every_score():
    rows = list(csv.DictReader(io.StringIO(comparison_csv([SLOW, FAST]))))
    assert len(rows) == 9
    assert rows[4] == {
        "group": "scratch",
        "folder": "runs/start-seed1",
        "seed": "1",
        "epoch": "2",
        "score": "0.75",
    }


@pytest.fixture
def picture(tmp_path):
    """Draw groups; gives the pixels as numbers ``(rows, columns, 3)``."""

    def drawn(*groups):
        file = tmp_path / "comparison.png"
        write_comparison_picture(groups, tmp_path / "comparison", metric="Dice", reach=0.6)
        return np.asarray(Image.open(file).convert("RGB")).astype(int)

    return drawn


def test_the_picture_shows_the_mean_and_the_band_of_the_seeds(picture):
    wide = picture(SeedGroup("a", (run(0, 0.2, 0.2), run(1, 0.8, 0.8))))
    narrow = picture(SeedGroup("a", (run(0, 0.5, 0.5), run(1, 0.5, 0.5))))
    assert wide.shape == (HEIGHT, WIDTH, 3)
    assert (_pale_blue(wide).sum(), _pale_blue(narrow).sum()) > (50_000, 0)
    assert _pale_blue(narrow).sum() < 5_000


def _pale_blue(pixels):
    red, _, blue = np.moveaxis(pixels, -1, 0)
    return (blue - red > 15) & (red > 180)


@pytest.mark.parametrize("epochs", [pytest.param(1, id="marks"), pytest.param(3, id="strokes")])
def test_groups_differ_where_there_are_no_colours(picture, epochs):
    low, high = (SeedGroup("x", (run(0, *[score] * epochs),)) for score in (0.2, 0.9))
    there, swapped = (picture(*groups).mean(-1) < 200 for groups in ([low, high], [high, low]))
    curves = np.s_[40:-60, 80:800]  # without legend and axes
    assert (there[curves] ^ swapped[curves]).sum() > (300 if epochs > 1 else 20)


def test_names_with_signs_that_mean_something_to_the_drawing_program_are_drawn(picture):
    picture(SeedGroup("_a $x_b" + 40 * "c", (run(0, 0.5),)), SLOW)
