"""The parts of a page that show cases: the worst first, and as many slices as there is room for."""

import json
import re

import pytest

from deepseg.inference.metrics import Scores
from deepseg.report.overlay import COLOURS
from deepseg.sessions.reports import case_sections as sections
from deepseg.sessions.segmentation.case_result import CaseResult

NAMES = {"half 50%": 0.5, "good": 0.9, "bad": 0.1}


def scored(dice):
    return Scores(dice, 1.0, dice, 1.0, 2.0, 1.0, 3.0, 4.0, 1, 0, 0)


@pytest.fixture
def results():
    return [
        CaseResult(name, {"lesion": 3.0}, {"foreground": scored(d), "lesion": scored(d)})
        for name, d in NAMES.items()
    ]


def texts(results, view_of=lambda _: None):
    return [part.content.text for part in sections.case_sections(results, view_of, ["b", "lesion"])]


def test_the_worst_case_comes_first_and_its_link_leads_to_its_slices(results):
    table, slices = texts([*results, CaseResult("unknown", {"lesion": 1.0})])
    order = ["bad", "half 50%", "good", "unknown"]
    assert re.findall(r'<a href="#[^"]*">([^<]*)</a>', table) == order
    assert 'href="#case-half%2050%25"' in table
    assert re.findall(r'id="case-([^"]*)"', slices) == order


def test_slices_are_left_out_where_the_page_has_no_room_left(results, monkeypatch):
    view = {"letters": "x" * 1000}
    assert texts(results, lambda _: view)[1].count("application/json") == 3
    monkeypatch.setattr(sections, "BYTES_OF_ALL_SLICES", 2500)
    _, slices = texts(results, lambda _: view)
    assert slices.count("application/json") == 2
    assert slices.count("No slices here") == 1
    assert slices.index("No slices here") > slices.index('id="case-good"')


def test_classes_have_the_colours_of_the_pictures(results):
    (classes,) = set(re.findall(r'data-classes="([^"]*)"', texts(results)[1]))
    assert json.loads(classes.replace("&quot;", '"')) == [["lesion", list(COLOURS[0])]]
