"""Checkpoints as DeepMedic writes them, for a network that a model config describes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.model.layout import layout
from deepseg.transfer.sources.deepmedic import MEANS, VARIANCES, shapes, variables
from tests.transfer.test_tensor_bundle import written

WINDOW = 60


def write_checkpoint(
    prefix: Path,
    model_config: Path,
    *,
    epochs: int,
    slots: Sequence[str] = (),
    learning_rate: float | None = None,
) -> Path:
    """Write random variables of the network, with the trainer's count of epochs beside them.

    Args:
        prefix: Of the files.
        model_config: That describes the network.
        epochs: Count of the trainer.
        slots: DeepMedic's names of the optimiser's, such as ``velocities_for_mom``; the value of
            each is the number of its tensor, half of it for the second name.
        learning_rate: To which a schedule that follows accuracy has come.
    """
    plan = layout(load(ModelConfig, model_config).config)
    expected, rng = shapes(plan), np.random.default_rng(0)
    arrays = {}
    for variable in variables(plan):
        rows = (WINDOW,) if variable.role in (MEANS, VARIANCES) else ()
        values = rng.normal(0, 0.3, (*rows, *expected[variable.weight]))
        is_positive = variable.role in (VARIANCES, "gBn")
        arrays[f"net/{variable.name}"] = (np.abs(values) + 0.5 if is_positive else values).astype(
            "<f4"
        )
    arrays["trainer/num_epochs_trained"] = np.array(epochs, "<i8")
    learning = [v for v in variables(plan) if v.role not in (MEANS, VARIANCES)]
    for share, slot in zip((1, 0.5), slots, strict=False):
        for number, variable in enumerate(learning):
            name = f"trainer/{slot}_{number}" if number else f"trainer/{slot}"
            arrays[name] = np.full(expected[variable.weight], share * number, "<f4")
    arrays |= {"trainer/init_lr": np.float32(0.001), "trainer/init_mom": np.float32(0.6)}
    if learning_rate is not None:
        arrays["trainer/curr_lr_tfv"] = np.float32(learning_rate)
    checkpoint = written(prefix.parent, arrays)
    for file in prefix.parent.glob(f"{checkpoint.name}.*"):
        file.replace(file.with_name(file.name.replace(checkpoint.name, prefix.name)))
    return prefix
