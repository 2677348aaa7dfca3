"""``-compare``: sessions side by side, run first where they are not there yet."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepseg.commands.check import check
from deepseg.commands.train import train
from deepseg.config.load import load
from deepseg.config.training import TrainConfig
from deepseg.errors import DeepsegError, Problem, raise_if_any
from deepseg.model.checkpoint import FOLDS
from deepseg.report.comparison import (
    SeedGroup,
    comparison_csv,
    comparison_record,
    weakest_best,
)
from deepseg.report.comparison_picture import write_comparison_picture
from deepseg.report.comparison_tables import (
    ComparisonTable,
    case_csv,
    comparison_tables,
    differences,
)
from deepseg.report.console import Console
from deepseg.sessions.comparison.run_history import (
    METRICS,
    FinishedRun,
    common_metric,
    compared_settings,
    comparison_warnings,
    group_folder,
    grouped,
    read_run,
    seed_groups,
)
from deepseg.sessions.reports.comparison_page import write_comparison_page
from deepseg.sessions.segmentation.completed_cases import CompletedCases
from deepseg.sessions.set_aside import warn_of_set_aside
from deepseg.storage.atomic import writable, write_json, write_text


@dataclass(frozen=True)
class PlannedRun:
    """A session that is trained, or continued, before it is compared.

    Attributes:
        config_file: Its train file.
        folder: Of the session.
        seed: None for the one in the train file.
        from_scratch: It begins with random weights, whatever model the file names.
    """

    config_file: Path
    folder: Path
    seed: int | None
    from_scratch: bool

    @property
    def group(self) -> Path:
        """The folder of its group."""
        return group_folder(self.folder)

    def __str__(self) -> str:
        start = " from scratch" if self.from_scratch else ""
        return f"{self.config_file}{start}" + ("" if self.seed is None else f", seed {self.seed}")


def compare(
    runs: Sequence[Path | str],
    *,
    seeds: Sequence[int] = (),
    from_scratch: bool = False,
    reach: float | None = None,
    out: Path | str | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Path:
    """Compare sessions by the score that their best models are chosen by.

    Args:
        runs: Folders of sessions, finished or not, and train files, whose sessions are run or
            continued first.
        seeds: Train files are run once with each. Default: with their own seed.
        from_scratch: Also run the first train file without the model that it starts from.
        reach: The table says in which epoch this score was reached. Default: the best score, as a
            mean over seeds, of the group in which it is lowest.
        out: Folder for pictures and tables. Default: ``comparison`` beside the first session's
            folder.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The folder of the comparison.

    Raises:
        DeepsegError: Everything that is wrong with folders, train files and their cases, before
            anything is trained.
    """
    console = Console(quiet=quiet)
    planned = _planned(
        list(map(Path, runs)), tuple(dict.fromkeys(seeds)), from_scratch=from_scratch
    )
    sessions = []
    for number, run in enumerate(planned, start=1):
        if isinstance(run, PlannedRun):
            console.say(f"session {number} of {len(planned)}: {run}")
            sessions.append(read_run(_trained(run, device=device, quiet=quiet)))
        else:
            sessions.append(run)
    metric = common_metric(sessions)
    by_seed = grouped(sessions)
    doubts, settings = [*comparison_warnings(by_seed, metric)], [*compared_settings(by_seed)]
    for warning in doubts:
        console.warn(warning)
    for line in settings:
        console.say(f"compared: {line}")
    groups = seed_groups(by_seed, metric)
    reached = weakest_best(groups) if reach is None else reach
    tables = comparison_tables(groups, METRICS[metric], reach=reached)
    for table in filter(lambda table: table.rows, tables):
        console.table(table.title, [*table.columns], table.rows)
    console.say(f"reached: the first epoch with at least {reached:.3g}")
    folder = sessions[0].folder.parent / "comparison" if out is None else Path(out)
    remarks = [*settings, *doubts]
    _write(folder, groups, tables, remarks, console, metric=METRICS[metric], reach=reached)
    return folder


def _planned(
    runs: Sequence[Path], seeds: Sequence[int], *, from_scratch: bool
) -> list[FinishedRun | PlannedRun]:
    """Sessions that have begun, and those that train files stand for; each once.

    Raises:
        DeepsegError: All problems of all of them; ``compare-one-group``.
    """
    files = [run for run in runs if _is_train_file(run)]
    problems = list(_without_train_file(seeds, from_scratch)) if not files else []
    planned: dict[Path, FinishedRun | PlannedRun] = {}
    again: list[Path] = []
    for run in runs:
        try:
            if run not in files:
                again += [run] if run.resolve() in planned else []
                planned.setdefault(run.resolve(), read_run(run))
                continue
            twins = (False, True) if from_scratch and run == files[0] else (False,)
            for session in _planned_runs(run, seeds, twins):
                again += [session.folder] if session.folder.resolve() in planned else []
                planned[session.folder.resolve()] = session  # it may have more to do
        except DeepsegError as error:
            problems += error.at(str(run)).problems
    raise_if_any(problems)
    raise_if_any(_too_few({session.group for session in planned.values()}, again))
    return list(planned.values())


def _is_train_file(run: Path) -> bool:
    return run.suffix.lower() in (".yaml", ".yml", ".cfg") and not run.is_dir()


def _planned_runs(
    config_file: Path, seeds: Sequence[int], twins: Sequence[bool]
) -> Iterator[PlannedRun]:
    """The sessions of a train file, whose cases and model are examined before the first begins."""
    folder = load(TrainConfig, config_file).config.folder
    latest = folder / "models" / "last.save"
    model = latest if not seeds and latest.exists() else None
    raise_if_any(check(config_file, model=model, quiet=True).problems)
    for from_scratch in twins:
        name = f"{folder.name}-scratch" if from_scratch else folder.name
        for seed in seeds or (None,):
            ending = "" if seed is None else f"-seed{seed}"
            yield PlannedRun(config_file, folder.with_name(name + ending), seed, from_scratch)


def _without_train_file(seeds: Sequence[int], from_scratch: bool) -> Iterator[Problem]:
    for option, is_given in {"-seeds": bool(seeds), "-fromScratch": from_scratch}.items():
        if is_given:
            yield Problem(
                code="compare-without-train-file",
                got=f"{option} with folders of sessions only",
                expected="a train file, whose sessions can still be run",
                fix=f"name a train file, or remove {option}",
            )


def _too_few(groups: Collection[Path], again: Sequence[Path]) -> Iterator[Problem]:
    """The problem of a single group; ``again`` are sessions that were named before."""
    if len(groups) < 2:
        got = " ".join(["one group of sessions:", *(group.name for group in groups)])
        if again:
            got += f", with {', '.join(dict.fromkeys(map(str, again)))} more than once"
        yield Problem(
            code="compare-one-group",
            got=got,
            expected="at least two that differ in more than their seed",
            fix="name another session or train file, or add -fromScratch to a train file",
        )


def _trained(run: PlannedRun, *, device: str, quiet: bool) -> Path:
    """Run a session, or go on with it; its folder. A trained model at its start is fine-tuned."""
    names = ("models/last.save", FOLDS)
    begins = not any((run.folder / name).exists() for name in names)
    train(
        run.config_file,
        device=device,
        quiet=quiet,
        reset_optimizer=begins and not run.from_scratch,
        from_scratch=run.from_scratch,
        seed=run.seed,
    )
    return run.folder


def _write(
    folder: Path,
    groups: Sequence[SeedGroup],
    tables: Sequence[ComparisonTable],
    remarks: Sequence[str],
    console: Console,
    *,
    metric: str,
    reach: float,
) -> None:
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
    names = [
        *(
            "report.html",
            "cases.csv",
            *(f"comparison.{ending}" for ending in ("json", "csv", *PICTURES)),
        ),
        *(f"{table.name}.{ending}" for table in tables for ending in ("csv", "tex")),
    ]
    written = CompletedCases(folder, ".written")
    warn_of_set_aside(written.begin("comparison", [folder / name for name in names]), console)
    record = comparison_record(groups, metric=metric, reach=reach)
    record["differences"] = [difference.record() for difference in differences(groups)]
    write_json(folder / "comparison.json", record)
    write_text(folder / "comparison.csv", comparison_csv(groups))
    write_text(folder / "cases.csv", case_csv(groups))
    for table in tables:
        write_text(folder / f"{table.name}.csv", table.csv())
        write_text(folder / f"{table.name}.tex", table.latex())
    write_comparison_page(
        folder / "report.html", groups, tables, remarks, metric=metric, reach=reach
    )
    try:
        write_comparison_picture(groups, folder / "comparison", metric=metric, reach=reach)
    except DeepsegError as error:
        console.warn(str(error))
    files = [name for name in names if (folder / name).is_file()]
    written.keep("comparison", "", {"files": files})
    console.say(f"comparison in {folder}: " + "; ".join(_NAMES))


PICTURES = ("png", "pdf", "svg")
_NAMES = ("report.html", "comparison.png, .pdf, .svg, .json, .csv", "tables as .csv and .tex")
