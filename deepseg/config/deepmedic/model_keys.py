"""Rules for every key of DeepMedic's model files, as data, in the order in which they apply.

Defaults are given where DeepMedic's differ from ours or depend on other keys.
"""

from __future__ import annotations

from deepseg.config.deepmedic import convert
from deepseg.config.deepmedic.key_rules import (
    CarriedKey,
    CfgValues,
    IgnoredKey,
    Key,
    KeyRule,
    OldKey,
    RefusedKey,
    always,
    default,
    is_true,
)
from deepseg.config.deepmedic.old_models import OPTIMISER_KEYS
from deepseg.errors import DeepsegError


def _hidden_fc_layers(cfg: CfgValues) -> int:
    hidden = cfg.get("numberFMsPerLayerFC", [])
    return len(hidden) if isinstance(hidden, list) else 0


def _fc_dropout(cfg: CfgValues) -> list[float]:
    hidden = _hidden_fc_layers(cfg)
    return [0.0] + [0.5] * hidden if hidden else [0.5]


def _validation_segment(cfg: CfgValues) -> list[int] | None:
    """The smallest segment that gives a voxel, as DeepMedic counts: padding of `normal` ignored."""
    hidden = _hidden_fc_layers(cfg)
    fc_kernels = cfg.get("kernelDimPerLayerFC", [[1, 1, 1]] * (hidden + 1))
    fc_padding = cfg.get("padTypePerLayerFC", ["VALID"] * (hidden + 1))
    try:
        unpadded = [
            kernel
            for kernel, padding in zip(fc_kernels, convert.paddings(fc_padding), strict=False)
            if padding == "none"
        ]
        kernels = [*cfg["kernelDimPerLayerNormal"], *unpadded]
        return [1 + sum(kernel[axis] - 1 for kernel in kernels) for axis in range(3)]
    except (KeyError, IndexError, TypeError, DeepsegError):
        return None  # these keys are wrong themselves, and will be refused


_has_subsampled = is_true("useSubsampledPathway")

MODEL_KEYS: tuple[KeyRule, ...] = (
    Key(name="modelName", path="name", default=default("deepmedic")),
    Key(name="folderForOutput", path="output"),
    Key(
        name="numberOfOutputClasses",
        path="classes",
        convert=convert.class_names,
        required=always,
        note="classes are named background, class1, class2, …",
    ),
    Key(
        name="numberOfInputChannels",
        path="channels",
        convert=convert.channel_names,
        required=always,
        note="channels are named channel1, channel2, …",
    ),
    Key(name="numberFMsPerLayerNormal", path="normal.feature_maps", required=always),
    Key(name="kernelDimPerLayerNormal", path="normal.kernels", required=always),
    Key(name="padTypePerLayerNormal", path="normal.padding", convert=convert.paddings),
    Key(name="layersWithResidualConnNormal", path="normal.residuals"),
    Key(name="lowerRankLayersNormal", path="normal.low_rank"),
    Key(name="dropoutRatesNormal", path="normal.dropout", convert=convert.empty_is_zero),
    Key(name="useSubsampledPathway", path="subsampled", convert=convert.block_if_on),
    Key(
        name="subsampleFactor",
        path="subsampled.factors",
        convert=convert.factors,
        used=_has_subsampled,
    ),
    Key(
        name="numberFMsPerLayerSubsampled",
        path="subsampled.feature_maps",
        used=_has_subsampled,
    ),
    Key(name="kernelDimPerLayerSubsampled", path="subsampled.kernels", used=_has_subsampled),
    Key(
        name="padTypePerLayerSubsampled",
        path="subsampled.padding",
        convert=lambda value: "none" if value == [] else convert.paddings(value),
        default=default([]),
        used=_has_subsampled,
        note="mirrors normal here, but not in DeepMedic",
    ),
    Key(
        name="layersWithResidualConnSubsampled",
        path="subsampled.residuals",
        used=_has_subsampled,
    ),
    Key(name="lowerRankLayersSubsampled", path="subsampled.low_rank", used=_has_subsampled),
    Key(
        name="dropoutRatesSubsampled",
        path="subsampled.dropout",
        convert=convert.empty_is_zero,
        default=default([]),
        used=_has_subsampled,
        note="mirrors normal here, but not in DeepMedic",
    ),
    Key(name="numberFMsPerLayerFC", path="fc.feature_maps"),
    Key(name="kernelDimPerLayerFC", path="fc.kernels"),
    Key(name="padTypePerLayerFC", path="fc.padding", convert=convert.paddings),
    Key(name="layersWithResidualConnFC", path="fc.residuals"),
    Key(
        name="dropoutRatesFc",
        path="fc.dropout",
        convert=convert.empty_is_zero,
        default=_fc_dropout,
        note="0.5 in DeepMedic where there is no hidden layer",
    ),
    Key(name="segmentsDimTrain", path="segments.train", required=always),
    Key(
        name="segmentsDimVal",
        path="segments.validation",
        default=_validation_segment,
        note="the receptive field in DeepMedic, so that one voxel is predicted",
    ),
    Key(name="segmentsDimInference", path="segments.inference"),
    Key(name="convWeightsInit", path="initialisation", convert=convert.initialisation),
    Key(name="activationFunction", path="activation"),
    Key(
        name="rollAverageForBNOverThatManyBatches",
        path="batch_norm",
        convert=convert.batch_norm,
        default=default(60),
        note="the window statistics of DeepMedic; 0 means none",
    ),
    OldKey(name="kernelDimensionsSubsampled", new="kernelDimPerLayerSubsampled"),
    OldKey(
        name="kernelDimFor1stFcLayer",
        new="kernelDimPerLayerFC",
        read=lambda size, cfg: convert.first_fc_kernels(size, _hidden_fc_layers(cfg)),
    ),
    OldKey(
        name="kernelDimFor1stFcLayer",
        new="padTypePerLayerFC",
        read=lambda _, cfg: convert.first_fc_paddings(_hidden_fc_layers(cfg)),
    ),
    OldKey(
        name="initializeClassic0orDelving1",
        new="convWeightsInit",
        read=lambda value, _: convert.chosen({0: ["normal", 0.01], 1: ["fanIn", 2]})(value),
    ),
    OldKey(
        name="relu0orPrelu1",
        new="activationFunction",
        read=lambda value, _: convert.chosen({0: "relu", 1: "prelu"})(value),
    ),
    RefusedKey(
        "indicesOfLayersWithResidualConnectionsPerPathType",
        "use layersWithResidualConnNormal, …Subsampled and …FC, which count from 1",
    ),
    RefusedKey(
        "indicesOfLayersWithResidualConnectionsPerPathway",
        "use layersWithResidualConnNormal, …Subsampled and …FC, which count from 1",
    ),
    IgnoredKey("batchSizeVal", "say batchsize_val_samples in the train file"),
    IgnoredKey("batchSizeInfer", "say batchsize in the test file"),
    *map(CarriedKey, ("batchSizeTrain", *OPTIMISER_KEYS)),
)
