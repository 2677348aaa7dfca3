"""deepseg: segmentation of 3D medical scans with multi-pathway CNNs, made for transfer learning.

The commands of the command line are functions here::

    model = deepseg.new_model("model.yaml")
    trained = deepseg.train("train.yaml", model=model)
    folder = deepseg.segment("test.yaml", model=trained)

A model is a file that can be read again:

>>> import pathlib, tempfile, deepseg
>>> settings = [
...     "channels: [T1, FLAIR]",
...     "classes: [background, lesion]",
...     "normal: {feature_maps: [4, 5]}",
...     "segments: {train: 9}",
... ]
>>> with tempfile.TemporaryDirectory() as folder:
...     file = pathlib.Path(folder) / "model.yaml"
...     _ = file.write_text("\\n".join(settings))
...     path = deepseg.new_model(file, out=pathlib.Path(folder) / "model.save", quiet=True)
...     model = deepseg.load(path)
>>> model.config.classes
('background', 'lesion')

They are imported when they are first used, so that the floors that do not need torch, and the first
words of the command line, do not wait for it.
"""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from deepseg.errors import DeepsegError
from deepseg.version import VERSION

if TYPE_CHECKING:
    from deepseg.commands.check import CheckReport, check
    from deepseg.commands.compare import compare
    from deepseg.commands.convert import convert
    from deepseg.commands.export import export
    from deepseg.commands.new_model import new_model, plan_transfer
    from deepseg.commands.plan import plan
    from deepseg.commands.prepare import prepare
    from deepseg.commands.segment import segment
    from deepseg.commands.segment_batches import segment_batches
    from deepseg.commands.show import show
    from deepseg.commands.train import train
    from deepseg.inference.metric_registry import register_metric
    from deepseg.inference.predictor import Predictor
    from deepseg.model.checkpoint import read_checkpoint as load
    from deepseg.training.loss_registry import register_loss
    from deepseg.transfer.rules import TransferRules
    from deepseg.transfer.sources.modules.module_registry import register_module

__version__ = VERSION
__all__ = [
    "CheckReport",
    "DeepsegError",
    "Predictor",
    "TransferRules",
    "__version__",
    "check",
    "compare",
    "convert",
    "export",
    "load",
    "new_model",
    "plan",
    "plan_transfer",
    "prepare",
    "register_loss",
    "register_metric",
    "register_module",
    "segment",
    "segment_batches",
    "show",
    "train",
]

_HOMES = {
    "Predictor": ("deepseg.inference.predictor", "Predictor"),
    "TransferRules": ("deepseg.transfer.rules", "TransferRules"),
    "CheckReport": ("deepseg.commands.check", "CheckReport"),
    "check": ("deepseg.commands.check", "check"),
    "compare": ("deepseg.commands.compare", "compare"),
    "convert": ("deepseg.commands.convert", "convert"),
    "export": ("deepseg.commands.export", "export"),
    "load": ("deepseg.model.checkpoint", "read_checkpoint"),
    "new_model": ("deepseg.commands.new_model", "new_model"),
    "plan": ("deepseg.commands.plan", "plan"),
    "prepare": ("deepseg.commands.prepare", "prepare"),
    "plan_transfer": ("deepseg.commands.new_model", "plan_transfer"),
    "register_loss": ("deepseg.training.loss_registry", "register_loss"),
    "register_metric": ("deepseg.inference.metric_registry", "register_metric"),
    "register_module": (
        "deepseg.transfer.sources.modules.module_registry",
        "register_module",
    ),
    "segment": ("deepseg.commands.segment", "segment"),
    "segment_batches": ("deepseg.commands.segment_batches", "segment_batches"),
    "show": ("deepseg.commands.show", "show"),
    "train": ("deepseg.commands.train", "train"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deepseg' has no attribute {name!r}")
    module, function = _HOMES[name]
    generator = random.getstate()  # rich draws from it when it is first imported
    try:
        return getattr(importlib.import_module(module), function)
    finally:
        random.setstate(generator)
