"""Where the values produced by DeepMedic itself are; the tests take whatever cases they find."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOLDEN = Path(os.environ.get("DEEPSEG_GOLDEN", ROOT / "../shared/golden/deepmedic"))
ABSENT = f"no values of DeepMedic at {GOLDEN} (DEEPSEG_GOLDEN says where they are)"


def inference_cases():
    """(folder of a model, file of its output) for every folder with a model and a checkpoint."""
    return [
        (index.parent, outputs)
        for index in sorted(GOLDEN.glob("*/*.model.ckpt.index"))
        if (index.parent / "model.cfg").is_file()
        for outputs in sorted(index.parent.glob("*.npz"))
    ]


def step_cases():
    """Settings of a training session beside its values, in folders without a checkpoint."""
    return [
        values.with_suffix(".cfg")
        for values in sorted(GOLDEN.glob("*/*.npz"))
        if values.with_suffix(".cfg").is_file()
        and not list(values.parent.glob("*.model.ckpt.index"))
    ]


def named(cases):
    """Cases for ``parametrize``; one that skips, with the reason, where there are none."""
    import pytest

    if cases:
        return [pytest.param(case, id=_name(case)) for case in cases]
    return [pytest.param(None, marks=pytest.mark.skip(reason=ABSENT), id="absent")]


def _name(case):
    path = case[1] if isinstance(case, tuple) else case
    return f"{path.parent.name}-{path.stem}"
