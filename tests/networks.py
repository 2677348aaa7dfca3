"""The small networks of all tests: two channels, three classes, two resolutions, few feature maps.

Tests say only in which settings theirs differs: ``small_network(subsampled=None)``.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from deepseg.config.model import ModelConfig
from deepseg.geometry.boxes import Box, Int3
from deepseg.model.network import Network

SMALL: Mapping[str, Any] = MappingProxyType(
    {
        "channels": ["T1", "FLAIR"],
        "classes": ["background", "a", "b"],
        "normal": {"feature_maps": [3, 4]},
        "subsampled": {"factors": [3]},
        "fc": {"feature_maps": [5]},
        "segments": {"train": 11},
    }
)


def small_config(**changes: Any) -> ModelConfig:
    """The settings of `SMALL`, with ``changes`` of whole blocks such as ``fc={}``."""
    return ModelConfig.model_validate({**SMALL, **changes})


def small_network(seed: int = 0, **changes: Any) -> Network:
    """A network of `small_config` in training mode, as it is initialised."""
    return Network(small_config(**changes), rng=torch.Generator().manual_seed(seed))


def trained_network(seed: int = 0, **changes: Any) -> Network:
    """A network of `small_config` in evaluation mode, as if it had been trained.

    Statistics, scales, slopes and biases are all different, so that none can be mistaken for
    another; initialised networks have zeros and ones there.
    """
    rng = torch.Generator().manual_seed(seed)
    network = Network(small_config(**changes), rng=rng).eval()
    for tensor in network.state_dict().values():
        if tensor.ndim == 1 and tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=rng)
    return network


def network_inputs(
    network: Network, segment: Int3, *, batch: int = 2, seed: int = 7
) -> list[Tensor]:
    """Random ``(batch, C, X, Y, Z)`` intensities for every parallel pathway of ``network``."""
    rng = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, len(network.config.channels), *points.count, generator=rng)
        for points in network.geometry.lattices(Box((0, 0, 0), segment))
    ]
