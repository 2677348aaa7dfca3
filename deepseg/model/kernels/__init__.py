"""All that is quick and ugly, behind this door: what a network asks of it, and nothing else.

`layers` and `network` say what is computed, in plain torch; here the same is computed in less time
on a processor. Training and inference use the same routines, so that each exists once.
`are_used` is the switch between both, and `switched_off` turns it; see `model.switch`.
"""

from deepseg.model.kernels.coarse_join import MultiScaleMaps, joined_statistics
from deepseg.model.kernels.convolution import (
    LAST,
    arranged,
    convolved,
    convolved_with_input_bias,
    has_instructions,
)
from deepseg.model.kernels.device_norm import normalised_by_batch, normalised_together
from deepseg.model.kernels.fused_activation import (
    Preactivation,
    dropout_mask,
    fused_preactivation,
    prelu,
)
from deepseg.model.kernels.repeated_convolution import (
    RepeatedConvolution,
    add_repeated,
    add_repeated_middle,
    repeated_box,
)
from deepseg.model.kernels.shortcut import with_shortcut
from deepseg.model.kernels.statistics import (
    Statistics,
    StatisticsSync,
    batch_statistics,
    neutral_statistics,
)
from deepseg.model.switch import are_used, is_plain, switched_off

__all__ = [
    "LAST",
    "MultiScaleMaps",
    "Preactivation",
    "RepeatedConvolution",
    "Statistics",
    "StatisticsSync",
    "add_repeated",
    "add_repeated_middle",
    "are_used",
    "arranged",
    "batch_statistics",
    "convolved",
    "convolved_with_input_bias",
    "dropout_mask",
    "fused_preactivation",
    "has_instructions",
    "is_plain",
    "joined_statistics",
    "neutral_statistics",
    "normalised_by_batch",
    "normalised_together",
    "prelu",
    "repeated_box",
    "switched_off",
    "with_shortcut",
]
