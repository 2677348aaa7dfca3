"""Curves: what is drawn for which records, as data; and that a PNG file comes out of it."""

import builtins
import math

import pytest
from PIL import Image

from deepseg.errors import DeepsegError
from deepseg.report.curves import PANEL_HEIGHT, WIDTH, Curve, best_epoch, panels, write_curves
from deepseg.report.figure import PALETTE, escaped


def measured(loss, **dice):
    return {"loss": loss, "accuracy": 0.9, "dice": dice}


def record(epoch, **sections):
    return {"epoch": epoch, "seconds": 1.5, **sections}


FULL = [
    record(
        epoch,
        learning_rate=10.0 ** -(epoch + 2),
        training=measured(1.0 - epoch / 10, oedema=0.5, core=0.25),
        validation_samples=measured(1.5 - epoch / 10, oedema=0.4, core=None),
        validation_volumes={"dice": {"oedema": 0.3, "core": 0.2}},
        best=epoch < 2,
    )
    for epoch in range(4)
]


def panel(records, title):
    (result,) = (p for p in panels(records) if p.title == title)
    return result


def test_all_panels_in_their_order():
    assert [(p.title, p.scale) for p in panels(FULL)] == [
        ("Loss", "linear"),
        ("Dice on samples", "zero to one"),
        ("Dice on whole volumes", "zero to one"),
        ("Learning rate", "logarithmic"),
    ]


@pytest.mark.parametrize(
    ("section", "left"),
    [
        ("validation_volumes", ["Loss", "Dice on samples", "Learning rate"]),
        ("learning_rate", ["Loss", "Dice on samples", "Dice on whole volumes"]),
        ("training", ["Loss", "Dice on samples", "Dice on whole volumes", "Learning rate"]),
    ],
)
def test_a_panel_without_data_is_left_out(section, left):
    records = [{k: v for k, v in r.items() if k != section} for r in FULL]
    assert [p.title for p in panels(records)] == left


def test_a_panel_whose_values_are_all_none_is_left_out():
    records = [record(0, validation_volumes={"dice": {"core": None}})]
    assert panels(records) == ()


def test_epochs_count_from_one():
    loss = panel(FULL, "Loss").curves[0]
    assert loss.points == ((1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7))


def test_loss_of_training_and_of_validation():
    records = [record(0, training=measured(2.0), validation_samples=measured(3.0))]
    assert [(c.label, c.points, c.is_training) for c in panel(records, "Loss").curves] == [
        ("training", ((1, 2.0),), True),
        ("validation", ((1, 3.0),), False),
    ]


def test_each_class_has_a_curve_on_training_and_one_on_validation_in_one_colour():
    records = [
        record(0, training=measured(1, a=0.1, b=0.2), validation_samples=measured(1, a=0.3, b=0.4))
    ]
    assert panel(records, "Dice on samples").curves == (
        Curve("a", ((1, 0.1),), PALETTE[0], is_training=True),
        Curve("b", ((1, 0.2),), PALETTE[1], is_training=True),
        Curve("a", ((1, 0.3),), PALETTE[0]),
        Curve("b", ((1, 0.4),), PALETTE[1]),
    )


def test_a_class_keeps_its_colour_in_a_panel_that_lacks_the_classes_before_it():
    records = [
        record(0, training=measured(1, a=0.1, b=0.2), validation_volumes={"dice": {"b": 0.4}})
    ]
    assert panel(records, "Dice on whole volumes").curves == (Curve("b", ((1, 0.4),), PALETTE[1]),)


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_class_without_a_value_in_one_epoch_gives_a_gap(value):
    records = [record(e, training=measured(1, core=d)) for e, d in enumerate([0.5, value, 0.7])]
    (core,) = panel(records, "Dice on samples").curves
    assert core.points == ((1, 0.5), (2, None), (3, 0.7))


def test_epochs_without_a_validation_are_no_gaps():
    records = [record(e, training=measured(1)) for e in range(5)]
    for epoch in (1, 4):
        records[epoch]["validation_volumes"] = {"dice": {"core": 0.1 * epoch}}
    (core,) = panel(records, "Dice on whole volumes").curves
    assert core.points == ((2, 0.1), (5, 0.4))


def test_a_learning_rate_of_zero_is_a_gap_on_the_logarithmic_axis():
    records = [record(e, learning_rate=rate) for e, rate in enumerate([0.0, 0.1])]
    assert panel(records, "Learning rate").curves[0].points == ((1, None), (2, 0.1))


def test_an_epoch_that_was_run_again_counts_once_as_it_was_last():
    records = [record(e, training=measured(loss)) for e, loss in [(0, 4), (1, 3), (1, 2), (2, 1)]]
    assert panel(records, "Loss").curves[0].points == ((1, 4), (2, 2), (3, 1))


def test_the_best_epoch_is_the_last_that_was_best():
    assert best_epoch(FULL) == 2
    assert best_epoch([record(0, training=measured(1))]) is None


def test_hundreds_of_classes_are_drawn_though_colours_repeat(tmp_path):
    names = {f"class_{i}": 0.5 for i in range(300)}
    records = [record(0, training=measured(1, **names))]
    curves = panel(records, "Dice on samples").curves
    assert len(curves) == 300
    assert curves[len(PALETTE)].colour == PALETTE[0]
    write_curves(records, tmp_path / "progress.png")


@pytest.mark.parametrize("epochs", [1, 4])
def test_the_file_holds_one_picture_with_all_panels_and_nothing_lies_beside_it(epochs, tmp_path):
    file = tmp_path / "progress.png"
    write_curves(FULL[:epochs], file)
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        assert picture.size == (WIDTH, 4 * PANEL_HEIGHT)
    assert list(tmp_path.iterdir()) == [file]


def test_an_older_file_stays_whole_for_those_who_have_it_open(tmp_path):
    file = tmp_path / "progress.png"
    file.write_text("older")
    with file.open() as reader:
        write_curves(FULL[:1], file)
        assert reader.read() == "older"


def test_nothing_to_draw_gives_no_file(tmp_path):
    write_curves([], tmp_path / "progress.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["$x^$", "_hidden", "病变", "a" * 200, "{x}%s"])
def test_any_class_name_can_be_drawn(name, tmp_path):
    write_curves([record(0, training=measured(1, **{name: 0.5, "b": 0.1}))], tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()


def test_names_are_escaped_where_matplotlib_would_read_more_in_them():
    assert [escaped(n) for n in ("oedema_1", "_a", "$x$")] == ["oedema_1", " _a", r"\$x\$"]


def test_a_missing_matplotlib_is_said_with_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_matplotlib(name, *rest):
        if name.split(".")[0] == "matplotlib":
            raise ImportError("No module named 'matplotlib'")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    with pytest.raises(DeepsegError) as refusal:
        write_curves(FULL, tmp_path / "progress.png")
    assert str(refusal.value) == (
        "[plot-extra-missing] got no usable matplotlib (No module named 'matplotlib'); "
        "expected matplotlib, which draws curves and pictures; "
        "fix: pip install 'deepseg-pathways[plot]'"
    )
    assert list(tmp_path.iterdir()) == []


def test_what_was_measured_before_training_stands_at_epoch_zero():
    before = record(-1, validation_samples=measured(3.0, core=0.1))
    after = record(0, training=measured(2.0, core=0.2), validation_samples=measured(1.0, core=0.3))
    training, validation = panel([before, after], "Loss").curves
    assert (training.points, validation.points) == (((1, 2.0),), ((0, 3.0), (1, 1.0)))


def test_groups_of_weights_with_a_rate_of_their_own_have_a_curve():
    rates = {"default": 0.1, "head": 0.5}
    records = [record(0, learning_rate=0.1, learning_rates=rates), record(1, learning_rate=0.2)]
    assert [(c.label, c.points) for c in panel(records, "Learning rate").curves] == [
        ("learning rate", ((1, 0.1), (2, 0.2))),
        ("head", ((1, 0.5),)),
    ]
