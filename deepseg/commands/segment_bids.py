"""``deepseg-bids``: segment the participants of a BIDS tree into a folder of BIDS derivatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from deepseg.config.files.document import Document
from deepseg.config.settings import Precision
from deepseg.config.testing import TestConfig
from deepseg.config.validation.validate import validate
from deepseg.errors import raise_if_any
from deepseg.inference.predictor import Listener, Predictor
from deepseg.model.checkpoint import read_checkpoint
from deepseg.report.console import Console
from deepseg.sessions.bids_derivatives import Derivatives
from deepseg.sessions.checked_cases import CheckRules, checked_test_cases
from deepseg.sessions.compatibility import testing_incompatibilities
from deepseg.sessions.model_files import say_weights

NONZERO = "nonzero"


def segment_bids(
    bids: Path,
    out: Path,
    *,
    model: Path,
    participants: Sequence[str] = (),
    channels: Mapping[str, str] | None = None,
    roi: str | None = None,
    precision: Precision = "float32",
    device: str = "auto",
    quiet: bool = False,
) -> list[Path]:
    """Segment the participants that are not done yet.

    Several processes may do different participants of one tree at the same time.

    Args:
        bids: The tree.
        out: Folder for the derivatives.
        model: A `.save`, or the folder of a session.
        participants: Their labels; none for all.
        channels: What the file of each channel is called; empty for the names of the channels.
        roi: What the mask of the region of interest is called, ``nonzero`` for the voxels that
            are not 0, or None.
        precision: Of the arithmetic.
        device: ``cpu``, ``cuda``, ``cudaN`` or ``auto``.
        quiet: Print warnings and errors only.

    Returns:
        The segmentations of all these participants.

    Raises:
        DeepsegError: Anything that is wrong with the tree, the images or the model, and
            ``file-exists`` for results of another model or of other images, before anything is
            computed.
    """
    console, checkpoint = Console(quiet=quiet), read_checkpoint(model)
    settings = {
        "output": str(out),
        "cases": {
            "bids": str(bids),
            "participants": tuple(participants),
            **({"channels": dict(channels)} if channels else {}),
            **({"roi": roi} if roi not in (None, NONZERO) else {}),
        },
        "inference": {"precision": precision},
        **({"preparation": {"roi": NONZERO}} if roi == NONZERO else {}),
    }
    config = validate(TestConfig, Document(bids, settings, {}))
    say_weights([checkpoint], console)
    raise_if_any(testing_incompatibilities(config, [checkpoint]))
    rules = CheckRules(title="participants", needs_labels=False)
    cases = checked_test_cases(config, [checkpoint], console, rules).cases
    derivatives = Derivatives(out, bids, checkpoint, config)
    pending = derivatives.pending(cases)
    if len(pending) < len(cases):
        console.say(f"{len(cases) - len(pending)} of {len(cases)} are done already")
    predictor = Predictor(
        checkpoint,
        config.inference,
        device=device,
        preparation=config.preparation,
        listener=Listener(console.warn, console.progress),
    )
    if pending:
        derivatives.describe()
    for case in pending:
        segmentation = predictor.segment(predictor.load(case))
        console.say(str(derivatives.write(case, segmentation)))
    return [derivatives.file(case) for case in cases]
