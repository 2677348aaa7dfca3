"""The picture of a network: a box for every layer, in the colour of its origin."""

import xml.etree.ElementTree as ElementTree

import pytest

from deepseg.model.layout import layout
from deepseg.report.network_drawing import COLOURS, NEUTRAL, network_svg
from tests.networks import small_config

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def plan():
    return layout(
        small_config(
            normal={"feature_maps": [4, 5, 6, 7], "residuals": [4]},
            subsampled={"factors": [3, 5]},
            fc={"feature_maps": [9]},
        )
    )


def drawn(plan, **choices):
    return ElementTree.fromstring(network_svg(plan, ["background", "a < b"], **choices))


def boxes(picture):
    """Rectangles of layers by address."""
    return {
        title.text.split(",")[0]: box
        for box in picture.iter(f"{SVG}rect")
        if (title := box.find(f"{SVG}title")) is not None and "." in title.text.split(",")[0]
    }


def texts(picture):
    return [element.text for element in picture.iter(f"{SVG}text")]


def test_every_layer_is_a_box_with_its_maps_and_kernel(plan):
    picture = drawn(plan)
    assert list(boxes(picture)) == list(plan.order)
    assert texts(picture).count("3³") == 12
    assert texts(picture).count("1³") == 2
    assert [text for text in texts(picture) if text.isdigit()].count("7") == 3
    assert "21" in texts(picture)  # feature maps of three pathways together
    assert "a < b" in texts(picture)
    assert "every 3 x 3 x 3 voxels" in texts(picture)


def test_more_maps_make_a_higher_box_and_depth_goes_to_the_right(plan):
    by_address = boxes(drawn(plan))
    heights = [float(by_address[f"normal.{n}"].get("height")) for n in (1, 2, 3, 4)]
    lefts = [
        float(by_address[address].get("x")) for address in ("normal.1", "normal.4", "fc.1", "fc.2")
    ]
    assert heights == sorted(set(heights))
    assert lefts == sorted(set(lefts))


def test_colours_say_where_weights_come_from_and_dashes_what_is_frozen(plan):
    picture = drawn(
        plan,
        origins={"normal.1": "from A.save", "normal.2": "new", "sub1.1": "from A.save"},
        frozen=["normal.1"],
    )
    by_address = boxes(picture)
    fills = {address: box.get("fill") for address, box in by_address.items()}
    assert (fills["normal.1"], fills["sub1.1"]) == (COLOURS[0], COLOURS[0])
    assert fills["normal.2"] == COLOURS[1]
    assert fills["fc.2"] == NEUTRAL
    dashed = [a for a, box in by_address.items() if box.get("stroke-dasharray")]
    assert dashed == ["normal.1"]
    assert texts(picture)[-3:] == ["from A.save", "new", "frozen"]


def test_an_arc_for_every_residual(plan):
    assert len(list(drawn(plan).iter(f"{SVG}path"))) == 3  # of each pathway


def test_all_is_inside_the_picture(plan):
    picture = drawn(plan)
    width, height = float(picture.get("width")), float(picture.get("height"))
    for box in picture.iter(f"{SVG}rect"):
        x, y, w, h = (float(box.get(name)) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
