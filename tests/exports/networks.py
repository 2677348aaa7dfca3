"""Networks of every kind of layer and pathway, by what is special about them."""

from tests.networks import trained_network

KINDS = {
    "one pathway": {"subsampled": None},
    "context of two factors, other ones on each axis": {"subsampled": {"factors": [[3, 2, 1], 5]}},
    "residuals that get more and fewer maps": {
        "normal": {"feature_maps": [3, 4, 3, 2], "residuals": [2, 3, 4]},
    },
    "borders of zeros and of mirrored voxels": {
        "normal": {
            "feature_maps": [3, 4],
            "kernels": [[3, 1, 5], 3],
            "padding": ["zero", "mirror"],
        },
        "fc": {"feature_maps": [5, 4], "kernels": [[5, 3, 1], 1, 1], "padding": ["mirror"] * 3},
        "subsampled": {"factors": [2]},
    },
    "low rank": {
        "normal": {"feature_maps": [3, 6, 7], "kernels": [3, [3, 5, 1], 3], "low_rank": [2, 3]},
        "activation": "elu",
    },
    "dropout and residuals in the final layers": {
        "fc": {"feature_maps": [6, 7], "residuals": [2], "dropout": [0, 0.5, 0.2]},
        "activation": "relu",
    },
    "biases instead of batch normalisation": {"batch_norm": "none", "activation": "selu"},
    "a window of statistics": {
        "batch_norm": {"statistics": "window", "length": 4},
        "activation": "linear",
    },
    "residuals around an odd border": {
        "normal": {"feature_maps": [3, 4, 5], "kernels": [3, 2, [4, 3, 3]], "residuals": [2, 3]},
        "subsampled": None,
    },
    "residuals around an odd border, in DeepMedic's rounding": {
        "normal": {"feature_maps": [3, 4, 5], "kernels": [3, 2, [4, 3, 3]], "residuals": [2, 3]},
        "subsampled": None,
        "context_alignment": "deepmedic",
    },
    "DeepMedic's alignment": {"context_alignment": "deepmedic", "subsampled": {"factors": [3, 4]}},
}


def kind_of_network(kind):
    """A network in evaluation mode with weights that cannot be mistaken for each other."""
    return trained_network(seed=4, **KINDS[kind])
