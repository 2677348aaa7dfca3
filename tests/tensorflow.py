"""Checkpoints as DeepMedic writes them, for a network that a model config describes."""

from pathlib import Path

import numpy as np

from deepseg.config.load import load
from deepseg.config.model import ModelConfig
from deepseg.model.layout import layout
from deepseg.transfer.sources.deepmedic import MEANS, VARIANCES, _shapes, variables
from tests.transfer.test_tensor_bundle import written

WINDOW = 60


def write_checkpoint(prefix: Path, model_config: Path, *, epochs: int) -> Path:
    """Write random variables of the network, with the trainer's count of epochs beside them."""
    plan = layout(load(ModelConfig, model_config).config)
    shapes, rng = _shapes(plan), np.random.default_rng(0)
    arrays = {}
    for variable in variables(plan):
        rows = (WINDOW,) if variable.role in (MEANS, VARIANCES) else ()
        values = rng.normal(0, 0.3, (*rows, *shapes[variable.weight]))
        is_positive = variable.role in (VARIANCES, "gBn")
        arrays[f"net/{variable.name}"] = (np.abs(values) + 0.5 if is_positive else values).astype(
            "<f4"
        )
    arrays["trainer/num_epochs_trained"] = np.array(epochs, "<i8")
    checkpoint = written(prefix.parent, arrays)
    for file in prefix.parent.glob(f"{checkpoint.name}.*"):
        file.replace(file.with_name(file.name.replace(checkpoint.name, prefix.name)))
    return prefix
