"""Writes what nnU-Net's topologies compute; needs dynamic_network_architectures, once.

python write_nnunet_outputs.py
"""

from pathlib import Path

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import nn

PLAN = {
    "input_channels": 2,
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "conv_op": nn.Conv3d,
    "kernel_sizes": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
    "num_classes": 3,
    "conv_bias": True,
    "norm_op": nn.InstanceNorm3d,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
    "deep_supervision": True,
}
NETWORKS = {
    "plain": PlainConvUNet(n_conv_per_stage=[2, 2, 2], n_conv_per_stage_decoder=[2, 2], **PLAN),
    "residual": ResidualEncoderUNet(
        n_blocks_per_stage=[1, 3, 2], n_conv_per_stage_decoder=[1, 1], **PLAN
    ),
}


def fill(name, shape):
    """Values that follow from the name of a weight and their place."""
    phase = sum(map(ord, name))
    values = torch.sin(torch.arange(np.prod(shape), dtype=torch.float64) * 1.7 + phase) * 0.3
    return (values + ("norm.weight" in name)).float().reshape(shape)


if __name__ == "__main__":
    results = {"image": torch.sin(torch.arange(2 * 8 * 12 * 4) * 0.7).reshape(1, 2, 8, 12, 4)}
    for kind, network in NETWORKS.items():
        state = network.state_dict()
        network.load_state_dict({name: fill(name, value.shape) for name, value in state.items()})
        aliases = [name for name in state if ".all_modules." in name or "decoder.encoder" in name]
        names = [name for name in state if name not in aliases]
        for alias in aliases:  # they are the same tensors: give them the values of their names
            plain = alias.replace("decoder.encoder.", "encoder.").replace("all_modules.0", "conv")
            state[alias].copy_(state[plain.replace("all_modules.1", "norm")])
        for name in names:
            state[name].copy_(fill(name, state[name].shape))
        results[f"{kind}.names"] = np.array(names)
        results[f"{kind}.parameters"] = sum(p.numel() for p in network.parameters())
        with torch.no_grad():
            for number, output in enumerate(network.eval()(results["image"])):
                results[f"{kind}.output{number}"] = output
    np.savez_compressed(
        Path(__file__).parent / "nnunet_outputs.npz",
        **{k: np.asarray(v) for k, v in results.items()},
    )
