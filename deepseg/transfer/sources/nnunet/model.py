"""A model of nnU-Net as a model of ours: settings that predict and prepare as nnU-Net does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from deepseg.config.blocks.nnunet_preparation import IntensityRule, NnunetPreparation, Scheme
from deepseg.config.cases import Preparation
from deepseg.config.model import ModelConfig
from deepseg.counts import counted
from deepseg.transfer.sources.nnunet.folder import PLANS, NnunetFolder, damaged, refused

_RESAMPLING = "resample_data_or_seg_to_shape"
_SCHEMES: dict[str, Scheme] = {
    "ZScoreNormalization": "z_score",
    "CTNormalization": "ct",
    "RescaleTo01Normalization": "rescale",
    "RGBTo01Normalization": "rgb",
    "NoNormalization": "none",
}
_AXES: tuple[Literal["x", "y", "z"], ...] = ("x", "y", "z")


def nnunet_config(model: NnunetFolder) -> ModelConfig:
    """The settings of a model that is this network with its own classifier.

    Raises:
        DeepsegError: ``nnunet-refused`` or ``nnunet-damaged``.
    """
    fold = model.checkpoint.parent
    return ModelConfig.model_validate(
        {
            "name": model.name,
            "channels": model.channels,
            "classes": model.classes,
            "imported": [{"nnunet": fold}],
            "fc": "none",
            "segments": {"train": model.window},
            "windows": {
                "overlap": 0.5,
                "places": "even",
                "beyond": "zero",
                "average": "scores",
                "mirror": [_AXES[axis] for axis in model.mirrored_axes],
            },
        }
    )


def nnunet_preparation(model: NnunetFolder) -> Preparation:
    """The preparation of its cases.

    Raises:
        DeepsegError: ``nnunet-refused`` for schemes and ways of resampling that are not covered.
    """
    _check_resampling(model)
    schemes = model.configuration.get("normalization_schemes")
    masks = model.configuration.get("use_mask_for_norm")
    if not isinstance(schemes, list) or not isinstance(masks, list):
        raise damaged("no normalization_schemes", model.folder / PLANS)
    if not len(schemes) == len(masks) == len(model.channels):
        got = f"{len(schemes)} normalization_schemes for {counted(len(model.channels), 'channel')}"
        raise damaged(got, model.folder / PLANS)
    rules = tuple(
        _rule(model, number, str(schemes[number]), is_inside=bool(masks[number]))
        for number in range(len(model.channels))
    )
    return Preparation(
        z_score="none", resample=model.spacing_mm, nnunet=NnunetPreparation(channels=rules)
    )


def _rule(model: NnunetFolder, number: int, name: str, *, is_inside: bool) -> IntensityRule:
    scheme = _SCHEMES.get(name)
    if scheme is None:
        raise refused(
            f"normalisation {name}",
            ", ".join(_SCHEMES),
            "read its network alone, as an imported pathway with nnunet",
            model.folder / PLANS,
        )
    channel = model.channels[number]
    if scheme != "ct":
        return IntensityRule(
            channel=channel, scheme=scheme, inside=is_inside and scheme == "z_score"
        )
    try:
        entries = model.plans["foreground_intensity_properties_per_channel"]
        values: Mapping[str, Any] = entries[str(number)]
        return IntensityRule(
            channel=channel,
            scheme=scheme,
            limits=(float(values["percentile_00_5"]), float(values["percentile_99_5"])),
            mean=float(values["mean"]),
            deviation=float(values["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(f"no intensities of channel {number}", model.folder / PLANS) from error


def _check_resampling(model: NnunetFolder) -> None:
    for use, order in (("data", 3), ("probabilities", 1)):
        key = f"resampling_fn_{use}"
        name = model.configuration.get(key, _RESAMPLING)
        settings = model.configuration.get(f"{key}_kwargs") or {}
        usual = {"order": order, "order_z": 0, "force_separate_z": None, "is_seg": False}
        unusual = {k: v for k, v in settings.items() if usual.get(k) != v}
        if name != _RESAMPLING or unusual:
            raise refused(
                f"{key} {name}" + "".join(f", {k} {v}" for k, v in unusual.items()),
                f"{_RESAMPLING} of order {order}, as nnU-Net plans it",
                "read its network alone, as an imported pathway with nnunet",
                model.folder / PLANS,
            )
