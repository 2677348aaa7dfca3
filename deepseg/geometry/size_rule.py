"""Sizes of images that a network computes, every n-th from the smallest; nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass

from deepseg.geometry.boxes import Int3, per_axis


@dataclass(frozen=True)
class SizeRule:
    """Sizes of images that are computed along each axis: ``smallest + k * step``.

    Attributes:
        smallest: Voxels of the smallest image.
        step: Voxels from one size to the next: 1 where every size is computed.
    """

    smallest: Int3
    step: Int3

    def fits(self, size: Int3) -> bool:
        """True if images of this size are computed.

        >>> SizeRule((32, 32, 16), (16, 16, 8)).fits((48, 32, 24))
        True
        >>> SizeRule((32, 32, 16), (16, 16, 8)).fits((50, 32, 24))
        False
        """
        return size == self.at_least(size) and self.at_least((0, 0, 0)) <= size

    def at_least(self, size: Int3) -> Int3:
        """The smallest size that is computed and not smaller than ``size`` along any axis.

        >>> SizeRule((32, 32, 16), (16, 16, 8)).at_least((33, 10, 24))
        (48, 32, 24)
        """
        return per_axis(
            lambda n, low, step: low + max(-(-(n - low) // step), 0) * step,
            size,
            self.smallest,
            self.step,
        )
