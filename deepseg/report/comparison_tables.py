"""Tables of a comparison by class and by case, on the screen, as CSV and as LaTeX.

Groups are held against the first one in pairs: the same case, the same seed. Of each case the
differences of all common seeds are averaged first, because they are not independent of each other;
the interval and the test then count cases. Where cases were not kept apart, they count seeds.
"""

from __future__ import annotations

import csv
import io
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepseg.inference.metrics import FOREGROUND
from deepseg.report.comparison import (
    COLUMNS,
    ScoredRun,
    SeedGroup,
    comparison_rows,
    counted_cases,
)
from deepseg.report.paired_differences import MeanDifference, mean_difference

Unit = Literal["cases", "seeds"]

CLASS_COLUMNS = ("session", "class", "Dice", "cases", "seeds")
DIFFERENCE_COLUMNS = ("session", "class", "gain", "95 % interval", "p", "cases", "seeds")
CASE_COLUMNS = ("group", "folder", "seed", "epoch", "case", "class", "dice")


@dataclass(frozen=True)
class ComparisonTable:
    """Cells under headings, for the screen and for papers.

    Attributes:
        name: Of its files.
        title: With what was measured and on how many cases.
        columns: The headings.
        rows: The cells; of a seed, the first begins with two blanks.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[list[str]]

    def csv(self) -> str:
        """The table as CSV.

        >>> table = ComparisonTable("a", "Dice", ("class", "Dice"), [["core, rim", "0.5"]])
        >>> print(table.csv(), end="")
        class,Dice
        "core, rim",0.5
        """
        return _csv(self.columns, [[cell.strip() for cell in row] for row in self.rows])

    def latex(self) -> str:
        r"""The table as a LaTeX tabular with the rules of the package booktabs.

        >>> table = ComparisonTable("a", "Dice, 3 cases", ("", "Dice"), [["core_1", "0.5±0.1"]])
        >>> print(table.latex(), end="")
        % Dice, 3 cases; needs \usepackage{booktabs}
        \begin{tabular}{lr}
        \toprule
         & Dice \\
        \midrule
        core\_1 & 0.5$\pm$0.1 \\
        \bottomrule
        \end{tabular}
        """
        shape = "l" + "r" * (len(self.columns) - 1)
        lines = [" & ".join(map(_latex, row)) + r" \\" for row in (self.columns, *self.rows)]
        head = [
            rf"% {self.title}; needs \usepackage{{booktabs}}",
            rf"\begin{{tabular}}{{{shape}}}",
            r"\toprule",
        ]
        end = [r"\bottomrule", r"\end{tabular}", ""]
        return "\n".join([*head, lines[0], r"\midrule", *lines[1:], *end])


def comparison_tables(
    groups: Sequence[SeedGroup], metric: str, *, reach: float
) -> list[ComparisonTable]:
    """The tables of sessions, of classes, and of differences from the first group; some are empty.

    Args:
        groups: The groups.
        metric: That gave their scores, for people.
        reach: The score for which an epoch is listed.
    """
    cases = counted_cases(groups)
    on = f" on {cases}" if cases else ""
    return [
        ComparisonTable(
            "sessions",
            metric + (f", {cases}" if cases else ""),
            COLUMNS,
            comparison_rows(groups, reach),
        ),
        ComparisonTable(
            "classes", f"Dice of the best epoch by class{on}", CLASS_COLUMNS, class_rows(groups)
        ),
        ComparisonTable(
            "differences",
            f"gain in Dice over {groups[0].name}, best epochs, same cases and seeds{on}",
            DIFFERENCE_COLUMNS,
            difference_rows(differences(groups)),
        ),
    ]


@dataclass(frozen=True)
class GroupDifference:
    """The gain of a group over another one on one class.

    Attributes:
        name: Of the group.
        reference: Of the other one.
        row: The class, ``foreground`` of all together, or ``mean`` of the classes.
        value: The difference; positive where the group is better.
        unit: What is counted in pairs.
        seeds: Number of seeds that both groups have.
    """

    name: str
    reference: str
    row: str
    value: MeanDifference
    unit: Unit
    seeds: int

    @property
    def cases(self) -> str:
        """The number of cases; ``-`` where they were not kept apart."""
        return str(self.value.pairs) if self.unit == "cases" else "-"

    def record(self) -> dict[str, Any]:
        """The values for programs that read comparison.json."""
        return {
            "session": self.name,
            "against": self.reference,
            "class": self.row,
            "mean": self.value.mean,
            "interval": None if self.value.low is None else [self.value.low, self.value.high],
            "p_wilcoxon": self.value.p,
            "pairs": self.value.pairs,
            "of": self.unit,
            "seeds": self.seeds,
        }


def class_rows(groups: Sequence[SeedGroup]) -> list[list[str]]:
    """Cells under `CLASS_COLUMNS`: the Dice of the best epoch by class, mean ± deviation of seeds.

    Empty where there is one class only.

    >>> first = ScoredRun("a", 0, {1: 0.5}, 1, 1, 1.0, {"rim": 0.25, "core": 0.75})
    >>> class_rows([SeedGroup("a", (first,))])
    [['a', 'rim', '0.250', '-', '1'], ['a', 'core', '0.750', '-', '1']]
    """
    return [
        [group.name, row, *_class_cells([run.class_scores.get(row) for run in group.runs], group)]
        for group in groups
        for row in _several(_classes([group]))
    ]


def _class_cells(values: Sequence[float | None], group: SeedGroup) -> list[str]:
    defined = [value for value in values if value is not None]
    cases = len({case for run in group.runs for case in run.case_scores})
    text = "-"
    if defined:
        text = f"{statistics.fmean(defined):.3f}"
        text += f"±{statistics.stdev(defined):.3f}" if len(defined) > 1 else ""
    return [text, str(cases) if cases else "-", str(len(defined))]


def differences(groups: Sequence[SeedGroup]) -> list[GroupDifference]:
    """Every group against the first, on the mean of the classes and on each; none without pairs."""
    return [
        difference
        for group in groups[1:]
        for row in ("mean", *_several(_classes(groups)))
        if (difference := _difference(group, groups[0], row)) is not None
    ]


def difference_rows(entries: Sequence[GroupDifference]) -> list[list[str]]:
    """Cells under `DIFFERENCE_COLUMNS`."""
    return [
        [
            entry.name,
            entry.row,
            f"{entry.value.mean:+.3f}",
            _interval(entry.value),
            "-" if entry.value.p is None else f"{entry.value.p:.2g}",
            entry.cases,
            str(entry.seeds),
        ]
        for entry in entries
    ]


def case_csv(groups: Sequence[SeedGroup]) -> str:
    """A line for every case and class of the best epoch of every session."""
    rows = [
        [
            *(group.name, run.folder, run.seed, run.best_epoch, case, row),
            "" if score is None else f"{score:.6g}",
        ]
        for group in groups
        for run in group.runs
        for case, scores in run.case_scores.items()
        for row, score in scores.items()
    ]
    return _csv(CASE_COLUMNS, rows)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    page = io.StringIO()
    csv.writer(page, lineterminator="\n").writerows([columns, *rows])
    return page.getvalue()


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{letter: rf"\{letter}" for letter in "&%$#_{}"},
}


def _latex(cell: str) -> str:
    indented = r"\quad " if cell.startswith("  ") else ""
    escaped = re.sub(r"[\\~^±&%$#_{}]", lambda match: _LATEX[match[0]], cell.strip())
    return indented + re.sub(r"(?<![\w.-])-(?=\d)", "$-$", escaped)


def _interval(value: MeanDifference) -> str:
    if value.low is None or value.high is None:
        return "-"
    return f"{value.low:+.3f} to {value.high:+.3f}"


def _classes(groups: Sequence[SeedGroup]) -> list[str]:
    return list(dict.fromkeys(row for g in groups for run in g.runs for row in run.class_scores))


def _several(classes: Sequence[str]) -> Sequence[str]:
    """The classes, with the foreground, where there is more than one."""
    return classes if len([name for name in classes if name != FOREGROUND]) > 1 else ()


def _difference(group: SeedGroup, reference: SeedGroup, row: str) -> GroupDifference | None:
    by_seed = {run.seed: run for run in reference.runs}
    pairs = [(run, by_seed[run.seed]) for run in group.runs if run.seed in by_seed]
    by_case = [values for case in _common_cases(pairs) if (values := list(_of(pairs, case, row)))]
    unit: Unit = "cases" if by_case else "seeds"
    values = [statistics.fmean(v) for v in by_case] if by_case else list(_of(pairs, None, row))
    if not values:
        return None
    difference = mean_difference(values)
    return GroupDifference(group.name, reference.name, row, difference, unit, len(pairs))


def _common_cases(pairs: Sequence[tuple[ScoredRun, ScoredRun]]) -> list[str]:
    """Cases of every run of every pair, in the order of the first."""
    runs = [run for pair in pairs for run in pair]
    named = dict.fromkeys(case for run in runs for case in run.case_scores)
    return [case for case in named if all(case in run.case_scores for run in runs)]


def _of(
    pairs: Sequence[tuple[ScoredRun, ScoredRun]], case: str | None, row: str
) -> Iterator[float]:
    """Differences of the pairs on a case, or on all together, where both have a score."""
    for run, other in pairs:
        score, reference = _score(run, case, row), _score(other, case, row)
        if score is not None and reference is not None:
            yield score - reference


def _score(run: ScoredRun, case: str | None, row: str) -> float | None:
    scores = run.class_scores if case is None else run.case_scores[case]
    if row != "mean":
        return scores.get(row)
    if case is None:
        return run.best
    classes = [score for name, score in scores.items() if name != FOREGROUND]
    defined = [score for score in classes if score is not None]
    return statistics.fmean(defined) if defined else None
