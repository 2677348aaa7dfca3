"""Names of labels for other programs: read back by the grammar of each."""

import csv
import json
import re

import pytest

from deepseg.report.label_files import label_files
from deepseg.report.overlay import COLOURS, colour

CLASSES = ["background", "rim", 'core "of" it', *(f"part {n}" for n in range(8))]


@pytest.fixture
def files():
    return label_files(CLASSES, ["itksnap", "slicer", "bids"])


def test_itk_snap_reads_index_colour_and_name(files):
    rows = [
        re.fullmatch(
            r'\s*(\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+([\d.]+) +([01]) +([01])\s+"([^"]*)"', line
        )
        for line in files["itksnap_labels.txt"].splitlines()
        if not line.startswith("#")
    ]
    assert [(int(row[1]), row[8]) for row in rows[:3]] == [
        (0, "Clear Label"),
        (1, "rim"),
        (2, "core 'of' it"),
    ]
    colours = [tuple(int(row[n]) for n in (2, 3, 4)) for row in rows[1:]]
    assert colours == [colour(label) for label in range(1, 11)]
    assert colours[len(COLOURS)] == colours[0]


def test_slicer_reads_words_between_spaces(files):
    rows = [
        line.split(" ")
        for line in files["slicer_labels.ctbl"].splitlines()
        if not line.startswith("#")
    ]
    assert rows[:3] == [
        ["0", "background", "0", "0", "0", "0"],
        ["1", "rim", "230", "85", "13", "255"],
        ["2", 'core_"of"_it', "86", "180", "233", "255"],
    ]
    assert {len(row) for row in rows} == {6}


def test_bids_has_a_row_for_every_label_and_a_sidecar(files):
    rows = list(csv.DictReader(files["dseg.tsv"].splitlines(), delimiter="\t", quoting=3))
    assert [(int(row["index"]), row["name"]) for row in rows] == list(enumerate(CLASSES))
    assert rows[2]["color"] == "#56b4e9"
    assert json.loads(files["dseg.json"])["Manual"] is False


def test_only_the_formats_that_are_asked_for_are_made():
    assert list(label_files(CLASSES, ["slicer"])) == ["slicer_labels.ctbl"]
    assert label_files(CLASSES, []) == {}
