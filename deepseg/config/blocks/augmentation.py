"""Random changes of training segments: intensities, mirror images, rotations, deformations."""

from __future__ import annotations

from typing import TypeAlias

from pydantic import Field

from deepseg.config.settings import Fraction, NotNegative, Positive, Settings, Share


class Gaussian(Settings):
    """A normally distributed number."""

    mean: float = Field(description="Mean.")
    deviation: NotNegative = Field(description="Standard deviation; 0 always gives the mean.")


class IntensityAugmentation(Settings):
    """I becomes (I + shift) * scale, drawn per segment and channel, the same in all pathways."""

    shift: Gaussian = Field(Gaussian(mean=0, deviation=0), description="Added first.")
    scale: Gaussian = Field(Gaussian(mean=1, deviation=0), description="Multiplied then.")


QuarterTurnWeights: TypeAlias = tuple[NotNegative, NotNegative, NotNegative, NotNegative]


class Rotate90Augmentation(Settings):
    """Rotation by multiples of 90 degrees in each plane, from its first towards its second axis.

    Four weights per plane: for 0, 90, 180 and 270 degrees.
    """

    xy: QuarterTurnWeights = Field((1, 0, 0, 0), description="In the plane of X and Y.")
    yz: QuarterTurnWeights = Field((1, 0, 0, 0), description="In the plane of Y and Z.")
    xz: QuarterTurnWeights = Field((1, 0, 0, 0), description="In the plane of X and Z.")


class AffineAugmentation(Settings):
    """A random rotation and scaling about the middle of the segment."""

    probability: Share = Field(0.5, description="Share of segments that are transformed.")
    max_rotation: tuple[NotNegative, NotNegative, NotNegative] = Field(
        (45.0, 45.0, 45.0), description="Largest angle in degrees about the axes X, Y, Z."
    )
    max_scaling: Fraction = Field(0.1, description="0.1 scales by 0.9 to 1.1.")


class ElasticAugmentation(Settings):
    """A random smooth displacement."""

    probability: Share = Field(0.5, description="Share of segments that are transformed.")
    grid: Positive = Field(12.0, description="Voxels between the points that are displaced.")
    displacement: NotNegative = Field(2.0, description="Standard deviation in voxels.")


class GammaAugmentation(Settings):
    """I becomes low + (high - low) ((I - low) / (high - low))^gamma, per segment and channel.

    Low and high are the extremes of the channel in all that the pathways read.
    """

    probability: Share = Field(0.3, description="Share of segments and channels that change.")
    max_gamma: float = Field(
        1.5,
        ge=1,
        le=10,
        description="1.5 draws exponents from 1/1.5 to 1.5.",
    )


class NoiseAugmentation(Settings):
    """Normally distributed noise, drawn for every voxel and pathway."""

    probability: Share = Field(0.3, description="Share of segments and channels that change.")
    max_deviation: NotNegative = Field(
        0.2, description="Largest standard deviation, in units of the prepared intensities."
    )


class LowResolutionAugmentation(Settings):
    """Voxels as of a coarser image: each axis is thinned out, and interpolated linearly."""

    probability: Share = Field(0.2, description="Share of segments and channels that change.")
    max_factor: float = Field(
        2.0,
        ge=1,
        le=10,
        description="Largest voxel size, in voxels of the image. Pathways that are coarser than "
        "the size that is drawn stay as they are.",
    )


class Augmentation(Settings):
    """Random changes of training segments; what is left out is off."""

    intensity: IntensityAugmentation | None = Field(None, description="Shift and scale.")
    reflect: tuple[Share, Share, Share] = Field(
        (0.0, 0.0, 0.0), description="Probability of a mirror image along X, Y, Z."
    )
    rotate90: Rotate90Augmentation | None = Field(None, description="Quarter turns.")
    affine: AffineAugmentation | None = Field(None, description="Rotation and scaling.")
    elastic: ElasticAugmentation | None = Field(None, description="Smooth deformation.")
    gamma: GammaAugmentation | None = Field(None, description="Another contrast.")
    low_resolution: LowResolutionAugmentation | None = Field(None, description="Coarser voxels.")
    noise: NoiseAugmentation | None = Field(None, description="Noise.")
