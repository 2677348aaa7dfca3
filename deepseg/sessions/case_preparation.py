"""Cases of a training session checked and prepared beforehand, each by itself, into its cache.

A case that is there is left as it is, whoever prepared it and whenever that was interrupted, so
that several processes can share the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.config.training import TrainConfig
from deepseg.data.case_cache import folder_name, is_whole, prepared_folder
from deepseg.data.cases.case import Case, list_cases
from deepseg.data.cases.checks import case_geometry, examine
from deepseg.data.cases.summary import CaseSummary
from deepseg.data.images.orientation import Reorientation
from deepseg.data.images.resampling import resampled_geometry
from deepseg.data.segments.candidates import CandidateRules
from deepseg.data.segments.mapped_cases import has_candidates, map_case
from deepseg.errors import OutOfMemory, Problem, is_out_of_memory
from deepseg.geometry.boxes import volume
from deepseg.model.checkpoint import Checkpoint
from deepseg.sessions.cohort import learnt_columns
from deepseg.sessions.summary_cache import SummaryCache
from deepseg.sessions.training.segment_datasets import training_rules, validation_rules
from deepseg.storage.atomic import writable

FLOAT_BYTES, LABEL_BYTES, MASK_BYTES, CANDIDATE_BYTES = 4, 1, 1, 4  # of a voxel


@dataclass(frozen=True)
class PlannedCase:
    """A case that a session will use.

    Attributes:
        case: Its files.
        is_learnt: It is one to learn from.
        candidates: Rules for the voxels that its segments are centred on; None without segments.
    """

    case: Case
    is_learnt: bool
    candidates: CandidateRules | None


def planned_cases(config: TrainConfig, model: Checkpoint) -> list[PlannedCase]:
    """The cases of a session, those to learn from first.

    Args:
        config: Of the session.
        model: With which it begins, or from which it goes on.

    Raises:
        DeepsegError: What is wrong with the lists of cases.
    """
    channels, columns = model.config.channels, learnt_columns([model.cohort])
    rules = training_rules(model, config).candidates
    learnt = list_cases(config.training.cases, channels, columns=columns)
    planned = [PlannedCase(case, is_learnt=True, candidates=rules) for case in learnt]
    if config.validation is None:
        return planned
    on_samples = validation_rules(model, config)
    candidates = None if on_samples is None else on_samples.candidates
    held_out = list_cases(config.validation.cases, channels, columns=columns)
    return planned + [
        PlannedCase(case, is_learnt=False, candidates=candidates) for case in held_out
    ]


def orientation(case: Case) -> str | None:
    """Where the axes of a case grow to, from its header; None if no image can be read."""
    geometry, _ = case_geometry(case)
    return None if geometry is None else geometry.orientation


@dataclass(frozen=True)
class CasePreparation:
    """Checks and prepares cases for a session.

    Attributes:
        network: Whose channels and classes the cases must have.
        preparation: Of the session, the orientation included.
        cache: Of the session.
    """

    network: ModelConfig
    preparation: Preparation
    cache: Path

    def is_done(self, planned: PlannedCase) -> bool:
        """True if nothing is left to do for a case."""
        if planned.case.missing:
            return False
        try:
            folder = folder_name(planned.case, self.preparation, self.network.channels, self.cache)
        except OSError:
            return False
        return (
            self._summaries.load(self._summaries.stamp(planned.case)) is not None
            and is_whole(folder)
            and (planned.candidates is None or has_candidates(folder, planned.candidates))
        )

    def prepare(self, planned: PlannedCase) -> tuple[Problem, ...]:
        """Check a case and prepare it.

        Returns:
            Its problems, for which it is not prepared; none if it is.

        Raises:
            OutOfMemory: It does not fit into memory beside those that are read at the same time.
            OutputNotWritable: The cache cannot be written.
        """
        case = planned.case
        try:
            summary = self._summary(case)
            if summary.problems:
                return summary.problems
            with writable(self.cache):
                self.cache.mkdir(parents=True, exist_ok=True)
            folder = prepared_folder(case, self.preparation, self.network.channels, self.cache)
            if planned.candidates is not None:
                map_case(folder, planned.candidates)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(_no_memory(case)) from error
        return ()

    def byte_count(self, case: Case) -> int:
        """Bytes that the case takes in the cache, as far as its header tells; 0 if it does not."""
        geometry, _ = case_geometry(case)
        if geometry is None:
            return 0
        spacing_mm = self.preparation.spacing_mm
        if spacing_mm is not None:
            turn = Reorientation.of(geometry, self.preparation.orientation)
            geometry = resampled_geometry(turn.geometry(geometry), spacing_mm)
        maps = len(case.weight_maps)
        has_roi = case.roi is not None or self.preparation.roi is not None
        per_voxel = (
            (len(self.network.channels) + maps) * FLOAT_BYTES
            + LABEL_BYTES
            + has_roi * MASK_BYTES
            + max(maps, 1) * CANDIDATE_BYTES
        )
        return volume(geometry.shape) * per_voxel

    def _summary(self, case: Case) -> CaseSummary:
        stamp = self._summaries.stamp(case)
        summary = self._summaries.load(stamp)
        if summary is None:
            summary = examine(
                case,
                class_count=len(self.network.classes),
                needs_labels=True,
                computes_roi=self._computes_roi,
            )
            self._summaries.store(stamp, summary)
        return summary

    @property
    def _computes_roi(self) -> bool:
        return self.preparation.roi is not None

    @property
    def _summaries(self) -> SummaryCache:
        return SummaryCache(
            self.cache,
            self.network.channels,
            len(self.network.classes),
            needs_labels=True,
            computes_roi=self._computes_roi,
        )


def size_text(size: float) -> str:
    """A number of bytes for people.

    >>> size_text(3_200_000), size_text(1.4e12)
    ('3.2 MB', '1400 GB')
    """
    return f"{size / 1e9:.4g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def _no_memory(case: Case) -> Problem:
    return Problem(
        code="out-of-memory",
        got=f"no memory to prepare {case.name}",
        expected="memory for whole cases, one for each thread",
        fix="end other programs, or leave the case out",
        where=case.where,
    )
