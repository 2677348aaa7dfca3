"""All that is quick and ugly, behind this door: what a network asks of it, and nothing else.

`layers` and `network` say what is computed, in plain torch; here the same is computed in less time
on a processor. Training and inference use the same routines, so that each exists once.
`are_used` is the switch between both, and `switched_off` turns it.
"""

from deepseg.model.kernels.coarse_join import MultiScaleMaps, joined_statistics
from deepseg.model.kernels.convolution import (
    LAST,
    arranged,
    convolved,
    convolved_with_input_bias,
    has_instructions,
)
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
)
from deepseg.model.kernels.statistics import (
    Statistics,
    batch_statistics,
    neutral_statistics,
)
from deepseg.model.kernels.switch import are_used, switched_off

__all__ = [
    "LAST",
    "MultiScaleMaps",
    "Preactivation",
    "RepeatedConvolution",
    "Statistics",
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
    "joined_statistics",
    "neutral_statistics",
    "prelu",
    "switched_off",
]
