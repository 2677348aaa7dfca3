"""Figure and text of the study, from what `-compare` has written: study.png and study.md.

    python study.py

Every number of the text is computed here, and so is whether it says that a start helps.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from deepseg.report.figure import PALETTE, new_figure
from deepseg.report.paired_differences import MeanDifference, mean_difference

HERE = Path(__file__).parent
NAMES = {
    "transferred-scratch": "from scratch",
    "transferred": "transferred",
    "thawed": "transferred, frozen at first",
    "frozen": "transferred, frozen",
}


TEXT = """\
# Tissue to lesions: does an older model help?

Written by `study.py` from the sessions in `runs`.

**Question.** A model knows grey and white matter in FLAIR. Does it help to learn lesions in T1 and
FLAIR from two labelled brains, and should it be frozen?

**Methods.** Brains are the MNI152 at 2 mm, deformed, with drawn lesions, look-alikes, bias fields
and noise (`cases.py`), read at 3 mm. *Source*: FLAIR, grey and white matter, 12 brains, 3 epochs of
60 steps. *Target*: T1 and FLAIR, lesions, 2 brains, {epochs} epochs of 10 steps of 12 segments;
RMSprop, 0.002, cross-entropy and Dice. Two pathways of 8, 12, 16 and 20 feature maps (factor 3) and
one hidden layer of 32. *Starts*: random weights; all layers of the source but the classifier, FLAIR
by name, T1 from zero; the same with layers 2 to 4 of both pathways frozen for good, or in the first
two epochs. {seeds} seeds each, which also draw the new layers. Dice counts all voxels of {brains}
held-out brains; for the curves no epoch is chosen, for the gains each session's best is. Gains are
paired (same brain, same seed), averaged over seeds, with 95 % bootstrap intervals over brains.

![Dice by epoch, band from the lowest to the highest seed; gains over scratch](study.png)

| Start | Dice after epoch {first} | after the last epoch | gain, best epochs |
|---|---|---|---|
{rows}

**Results.** After the last epoch, *{best}* had the highest mean; its seeds spread by {spread:.3f},
those of *transferred* by {transferred:.3f}. By the paired gains, {verdicts}.

**Limits.** Made-up brains, one source, {brains} brains to judge, on which an interval says little;
settings were not tuned for any start. It shows how to ask the question with `-compare`; the answer
for other data is theirs.
"""


@dataclass(frozen=True)
class Group:
    """Sessions of one start, which differ in their seeds.

    Attributes:
        name: Of the start.
        curves: Dice by epoch, of every seed.
        cases: Dice by case in the best epoch, of every seed.
    """

    name: str
    curves: list[dict[int, float]]
    cases: list[dict[str, float]]

    @property
    def last(self) -> list[float]:
        """Dice after the last epoch, of every seed."""
        return [curve[max(curve)] for curve in self.curves]


def groups(record: dict[str, Any]) -> list[Group]:
    """The groups of comparison.json, in the order of `NAMES`."""
    found = {
        group["name"]: Group(
            NAMES[group["name"]],
            [{int(e): s for e, s in run["scores"].items()} for run in group["sessions"]],
            [
                {case: classes["lesion"] for case, classes in run["cases"].items()}
                for run in group["sessions"]
            ],
        )
        for group in record["groups"]
    }
    return [found[name] for name in NAMES]


def gain(group: Group, reference: Group) -> MeanDifference:
    """Gain in Dice, best epochs, same cases and seeds, averaged over seeds, by cases."""
    pairs = list(zip(group.cases, reference.cases, strict=True))
    return mean_difference(
        [fmean(mine[case] - theirs[case] for mine, theirs in pairs) for case in reference.cases[0]]
    )


def draw(study: list[Group]) -> None:
    """Write study.png: curves on the left, gains over the first group on the right."""
    figure = new_figure(900, 340, background="white")
    curves, gains = figure.subplots(1, 2, width_ratios=[3, 2])
    for group, colour in zip(study, PALETTE, strict=False):
        epochs = sorted(group.curves[0])
        values = [[curve[epoch] for curve in group.curves] for epoch in epochs]
        curves.plot(epochs, [fmean(v) for v in values], "o-", color=colour, label=group.name)
        low, high = [min(v) for v in values], [max(v) for v in values]
        curves.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    curves.set(xlabel="epoch", ylabel="lesion Dice, four held-out brains", ylim=(0, 1))
    curves.legend(frameon=False, fontsize=8, loc="upper left")
    for place, group in enumerate(study[1:]):
        value, colour = gain(group, study[0]), PALETTE[place + 1]
        gains.plot([value.low, value.high], [place, place], color=colour, linewidth=2)
        gains.plot(value.mean, place, "o", color=colour)
    gains.axvline(0, color="#333333", linewidth=1)
    gains.set_yticks(range(len(study) - 1), [group.name for group in study[1:]], fontsize=8)
    gains.invert_yaxis()
    gains.set_xlabel("gain in Dice over scratch, 95 % interval")
    for axes in (curves, gains):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "study.png")


def verdict(value: MeanDifference) -> str:
    """What an interval allows to say.

    >>> verdict(MeanDifference(4, 0.1, 0.05, 0.2, 0.125))
    'better than from scratch'
    >>> verdict(MeanDifference(4, -0.1, -0.2, 0.05, 0.125))
    'not to be told from scratch'
    """
    assert value.low is not None
    assert value.high is not None
    if value.low > 0:
        return "better than from scratch"
    return "worse than from scratch" if value.high < 0 else "not to be told from scratch"


def spread(values: list[float]) -> str:
    """``0.500 ± 0.100``."""
    return f"{fmean(values):.3f} ± {stdev(values):.3f}"


def text(study: list[Group]) -> str:
    """study.md: methods, results, discussion."""
    scratch, rest = study[0], study[1:]
    first = min(epoch for epoch in scratch.curves[0] if epoch > 0)
    rows = "\n".join(_row(group, scratch, first) for group in study)
    best = max(study, key=lambda group: fmean(group.last))
    verdicts = "; ".join(f"*{g.name}* was {verdict(gain(g, scratch))}" for g in rest)
    return TEXT.format(
        rows=rows, first=first, best=best.name, verdicts=verdicts, epochs=max(scratch.curves[0]),
        seeds=len(scratch.curves), brains=len(scratch.cases[0]), spread=stdev(best.last),
        transferred=stdev(rest[0].last),
    )  # fmt: skip


def _row(group: Group, scratch: Group, first: int) -> str:
    """A line of the table of results."""
    early = spread([curve[first] for curve in group.curves])
    value = gain(group, scratch)
    more = "" if group is scratch else f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f})"
    return f"| {group.name} | {early} | {spread(group.last)} | {more} |"


def main() -> None:
    """Read the comparison, draw, write."""
    record = json.loads((HERE / "runs" / "comparison" / "comparison.json").read_text("utf-8"))
    study = groups(record)
    draw(study)
    (HERE / "study.md").write_text(text(study), "utf-8")


if __name__ == "__main__":
    main()
