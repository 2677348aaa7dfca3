"""Tables of a comparison by hand arithmetic: which scores are paired, and how cells are written."""

import pytest

from deepseg.report.comparison import ScoredRun, SeedGroup
from deepseg.report.comparison_tables import (
    ComparisonTable,
    class_rows,
    comparison_tables,
    difference_rows,
    differences,
)


def run(seed, cases, classes=None):
    """A session of one epoch, with the Dice of each case by class."""
    classes = {} if classes is None else classes
    return ScoredRun(f"runs/{seed}", seed, {1: 0.5}, 1, 10, 5.0, classes, cases)


def group(name, *runs):
    return SeedGroup(name, runs)


def test_seeds_that_only_one_group_has_are_not_paired():
    first = group("a", run(0, {"anna": {"core": 0.25}}), run(1, {"anna": {"core": 0.5}}))
    second = group("b", run(1, {"anna": {"core": 1.0}}), run(2, {"anna": {"core": 0.0}}))
    (difference,) = differences([first, second])
    assert (difference.value.mean, difference.seeds, difference.unit) == (0.5, 1, "cases")
    assert difference_rows([difference]) == [["b", "mean", "+0.500", "-", "-", "1", "1"]]


def test_cases_that_one_session_lacks_and_undefined_scores_are_not_paired():
    first = group("a", run(0, {"anna": {"core": 0.25}, "ben": {"core": None}, "carl": {"core": 1}}))
    second = group("b", run(0, {"anna": {"core": 0.75}, "ben": {"core": 1}, "dora": {"core": 0}}))
    (difference,) = differences([first, second])
    assert (difference.value.mean, difference.value.pairs) == (0.5, 1)


def test_seeds_are_counted_where_cases_were_not_kept_apart():
    first = group("a", run(0, {}, {"core": 0.25}), run(1, {}, {"core": 0.5}))
    second = group("b", run(0, {}, {"core": 0.75}), run(1, {}, {"core": 0.5}))
    (mean,) = differences([first, second])
    assert (mean.unit, mean.value.pairs, mean.value.mean) == ("seeds", 2, 0.0)  # of their bests
    assert difference_rows([mean])[0][5:] == ["-", "2"]


def test_groups_without_a_common_seed_have_no_difference():
    assert differences([group("a", run(0, {})), group("b", run(1, {}))]) == []


def test_the_mean_of_a_case_leaves_the_foreground_and_undefined_classes_out():
    rows = {"foreground": 1.0, "rim": 0.25, "core": 0.75, "edge": None}
    first = group("a", run(0, {"anna": dict.fromkeys(rows, 0.0)}, rows))
    second = group("b", run(0, {"anna": rows}, rows))
    values = {entry.row: entry.value.mean for entry in differences([first, second])}
    assert values == {"mean": 0.5, "foreground": 1.0, "rim": 0.25, "core": 0.75}


def test_a_class_has_the_deviation_of_the_sample_over_seeds():
    runs = [run(n, {"anna": {}}, {"rim": rim, "core": None}) for n, rim in enumerate((0.25, 0.75))]
    assert class_rows([group("a", *runs)]) == [
        ["a", "rim", "0.500±0.354", "1", "2"],  # the root of 2 x 0.25² / (2 - 1)
        ["a", "core", "-", "1", "0"],
    ]


def test_every_title_tells_the_number_of_cases():
    cases = {"anna": {"core": 0.5}, "ben": {"core": 0.5}}
    tables = comparison_tables([group("a", run(0, cases)), group("b", run(0, cases))], "D", reach=1)
    assert [table.title for table in tables] == [
        "D, 2 cases",
        "Dice of the best epoch by class on 2 cases",
        "gain in Dice over a, best epochs, same cases and seeds on 2 cases",
    ]


@pytest.mark.parametrize(
    ("cell", "latex"),
    [
        ("50 %", r"50 \%"),
        ("a_b#{}$&", r"a\_b\#\{\}\$\&"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("C:\\runs", r"C:\textbackslash{}runs"),
        ("  seed 1", r"\quad seed 1"),
        ("-0.250", "$-$0.250"),
        ("run-2", "run-2"),
    ],
)
def test_letters_that_mean_something_to_latex_are_escaped(cell, latex):
    lines = ComparisonTable("t", "T", ("a",), [[cell]]).latex().splitlines()
    assert lines[5] == rf"{latex} \\"


def test_a_single_class_needs_no_table_of_classes():
    rows = {"foreground": 0.5, "lesion": 0.5}
    groups = [group("a", run(0, {"anna": rows}, rows)), group("b", run(0, {"anna": rows}, rows))]
    assert class_rows(groups) == []
    assert [entry.row for entry in differences(groups)] == ["mean"]
