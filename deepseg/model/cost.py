"""Multiply-adds of the layers of a network, counted from its layout; nothing here imports torch.

Borders are not counted: these are the costs of one more predicted voxel of a large image.
"""

from __future__ import annotations

from math import prod

from deepseg.geometry.boxes import Int3, volume
from deepseg.geometry.repetition import groups
from deepseg.model.layout import LayerPlan, Layout


def multiply_adds(plan: Layout) -> dict[str, float]:
    """Of each layer by its address, per predicted voxel; as in training, nothing left out."""
    costs = {
        layer.address: layer.weights / volume(pathway.geometry.factor)
        for pathway in plan.pathways
        for layer in pathway.layers
    }
    return costs | {layer.address: float(layer.weights) for layer in plan.fc.layers}


def multiply_adds_in_inference(plan: Layout) -> dict[str, float]:
    """Of each layer by its address, per predicted voxel; repeated maps at low resolution."""
    if not plan.fc.layers:
        return multiply_adds(plan)
    joining = plan.fc.layers[0]
    coarse = sum(
        layer_weights(joining, pathway.outputs)
        * share_of_taps(joining.kernel, pathway.geometry.factor)
        for pathway in plan.pathways
    )
    return multiply_adds(plan) | {joining.address: coarse}


def layer_weights(layer: LayerPlan, inputs: int) -> int:
    """Weights in the dense kernel that reads ``inputs`` of the layer's feature maps."""
    return inputs * layer.outputs * volume(layer.kernel)


def share_of_taps(kernel: Int3, factor: Int3) -> float:
    """Taps of a convolution at low resolution, as a share of those at full resolution.

    >>> share_of_taps((3, 1, 1), (3, 1, 1)) == 5 / 9  # of 3 fine voxels: 2 + 1 + 2 instead of 3 * 3
    True
    """
    return prod(_taps(k, f) / (k * f) for k, f in zip(kernel, factor, strict=True))


def _taps(kernel: int, factor: int) -> int:
    """Along one axis, for all fine voxels of a coarse one far from the border."""
    taps = groups(0, factor, factor=factor, size=factor + kernel, kernel=kernel, border="none")
    return sum(group.taps for group in taps)
