"""Settings in which two models differ, so that the same weights compute something else.

The one list of them: a walk along a pathway ends at some, growth refuses others, and a plan notes
all that hold for weights that are taken over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from deepseg.config.model import BatchNorm, ModelConfig
from deepseg.geometry.boxes import text
from deepseg.model.layout import LayerPlan

COMPUTED = ("kernel", "padding", "residual", "dropout")  # per layer, and without weights


@dataclass(frozen=True)
class Difference:
    """One setting that an older and a new model do not share.

    Attributes:
        setting: Its name, for people.
        old: Its value in the older model.
        new: Its value in the new one.

    >>> str(Difference("dropout of fc.2", "0.5", "0"))
    'dropout of fc.2 is 0.5 in the older model and 0 in the new one'
    """

    setting: str
    old: str
    new: str

    def __str__(self) -> str:
        return f"{self.setting} is {self.old} in the older model and {self.new} in the new one"


def network_differences(old: ModelConfig, new: ModelConfig) -> Iterator[Difference]:
    """Settings that hold for all layers."""
    pairs = [
        ("context_alignment", old.context_alignment, new.context_alignment),
        ("activation", old.activation, new.activation),
        ("batch_norm", _batch_norm(old), _batch_norm(new)),
    ]
    yield from (Difference(*pair) for pair in pairs if pair[1] != pair[2])


def _batch_norm(config: ModelConfig) -> str:
    norm = config.batch_norm
    return f"on with epsilon {norm.epsilon:g}" if isinstance(norm, BatchNorm) else norm


def layer_differences(source: LayerPlan, target: LayerPlan) -> list[Difference]:
    """Settings in which two layers differ, type first, then shape.

    Channels and classes have names and may differ; so may what the first FC layer reads. Padding
    is nothing to a kernel of one voxel, and to one that stands in the middle of a larger one.
    """
    pairs = [
        ("low rank", _word(source.is_low_rank), _word(target.is_low_rank)),
        ("activation", source.activation, target.activation),
        ("batch norm", _word(source.normalises), _word(target.normalises)),
        ("kernel", text(source.kernel), text(target.kernel)),
        ("residual", _word(source.adds_earlier_input), _word(target.adds_earlier_input)),
        ("dropout", f"{source.dropout:g}", f"{target.dropout:g}"),
    ]
    if any(n > 1 for n in source.kernel):
        pairs.append(("padding", source.padding, target.padding))
    if not target.is_head:
        pairs.append(("feature maps", str(source.outputs), str(target.outputs)))
    if not (target.reads_image or target.address == "fc.1"):
        pairs.append(("inputs", str(source.inputs), str(target.inputs)))
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def _word(value: bool) -> str:
    return "on" if value else "off"
