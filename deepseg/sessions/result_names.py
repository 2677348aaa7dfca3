"""Names of result files: their endings, and those that collide or that no file system holds."""

from __future__ import annotations

from collections.abc import Sequence

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.model import ModelConfig
from deepseg.data.cases.case import Case
from deepseg.data.cases.case_names import byte_count, folded
from deepseg.errors import Problem
from deepseg.inference.requests import feature_map_slices, probability_labels
from deepseg.model.layout import layout

LONGEST = 255  # bytes of a file name


def result_endings(settings: SavedResults, model: ModelConfig) -> tuple[str, ...]:
    """Endings of the names of a case's volumes, in the order in which they are written.

    Raises:
        DeepsegError: ``layer-unknown``.
    """
    segmentation = [settings.segmentation_suffix] if settings.segmentation else []
    labels = probability_labels(model.classes, settings.probabilities)
    slices = feature_map_slices(layout(model), settings.feature_maps)
    return (
        *segmentation,
        *(f"{settings.probability_suffix}{label}" for label in labels),
        *settings.uncertainty,
        *(map_ending(a, n) for a, maps in slices.items() for n in range(maps.start, maps.stop)),
    )


def map_ending(address: str, number: int) -> str:
    """Ending of the name of a feature map's volume.

    >>> map_ending("normal.3", 0), map_ending("imported1./down/Conv", 12)
    ('normal.3_fm0', 'imported1._down_Conv_fm12')
    """
    return f"{address.replace('/', '_')}_fm{number}"


def result_name(case: str, ending: str) -> str:
    """Name of a volume.

    >>> result_name("anna", "Segm")
    'anna_Segm.nii.gz'
    """
    return f"{case}_{ending}.nii.gz"


def result_name_problems(cases: Sequence[Case], endings: Sequence[str]) -> list[Problem]:
    """Problems of cases whose results would have too long a name, or that of another result."""
    longest = max(endings, key=byte_count, default="")
    problems = []
    first: dict[str, Case] = {}
    for case in cases:
        size = byte_count(result_name(case.name, longest))
        if size > LONGEST:
            problems.append(
                Problem(
                    code="case-name",
                    got=f"the name {case.name!r}, with which that of a result has {size} bytes",
                    expected=f"at most {LONGEST}, which is what file systems hold",
                    fix="shorten the name of the case, or the suffixes under save",
                    where=case.where,
                )
            )
        for ending in endings:
            name = result_name(case.name, ending)
            twin = first.setdefault(folded(name), case)
            if twin is not case:
                problems.append(
                    Problem(
                        code="name-twice",
                        got=f"the result {name} of {case.name!r}, which {twin.name!r} has too",
                        expected="a name of its own for every result",
                        fix="rename one of the cases, or change the suffixes under save",
                        where=case.where,
                    )
                )
    return problems
