"""The models that answer, and what is wanted of them; cases are not known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deepseg.config.blocks.saved_results import SavedResults
from deepseg.config.cases import Preparation
from deepseg.config.testing import Inference
from deepseg.geometry.boxes import Int3
from deepseg.inference.boxwise.network import BoxwiseNetwork
from deepseg.inference.components import Cleaning
from deepseg.inference.out_of_memory import SplitOnOutOfMemory
from deepseg.inference.prediction import RequestedMaps
from deepseg.model.devices import PRECISIONS
from deepseg.model.network import Network
from deepseg.sessions.compatibility import wanted_probabilities


@dataclass(frozen=True)
class Member:
    """One of the models that answer.

    Attributes:
        network: As it was trained; feature maps are those of the first member's.
        fast: The same for segmentations and probabilities.
        preparation: How it wants cases prepared.
        room: What is known of the memory that it needs.
    """

    network: Network
    fast: BoxwiseNetwork
    preparation: Preparation
    room: SplitOnOutOfMemory


@dataclass(frozen=True)
class Ensemble:
    """How whole cases are answered.

    Attributes:
        members: Models with the same channels and classes.
        inference: Settings.
        save: What is wanted of every case.
        cleaning: Rules for components, by label.
        tile: Of feature maps, and in DeepMedic's tiling; None for that of each model.
        batch_size: Tiles of feature maps computed together.
    """

    members: tuple[Member, ...]
    inference: Inference
    save: SavedResults
    cleaning: Mapping[int, Cleaning]
    tile: Int3 | None
    batch_size: int

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, the background first."""
        return self.members[0].network.config.classes

    @property
    def wanted(self) -> RequestedMaps:
        """Maps to be written."""
        probabilities = wanted_probabilities(self.classes, self.save)
        return RequestedMaps(probabilities, tuple(self.save.uncertainty))

    def tile_of(self, member: Member) -> Int3:
        """The tile of a member, where tiles are its segments."""
        own = member.network.config.segment_sizes["inference"]
        return own if self.tile is None else self.tile

    def own_tile(self, member: Member) -> Int3 | None:
        """The tile of a member whose tiles are segments; None where context lies on one grid."""
        tiling = self.inference.tiling
        own = member.network.config.context_alignment
        is_local = tiling == "deepmedic" or (tiling is None and own == "deepmedic")
        return self.tile_of(member) if is_local else None


def member(
    network: Network,
    inference: Inference,
    preparation: Preparation,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Member:
    """``network`` with its weights of now, ready to segment cases.

    Args:
        network: In evaluation mode, on the device that computes.
        inference: Settings.
        preparation: How it wants cases prepared.
        say: Called with a line where memory is exhausted.
    """
    fast = BoxwiseNetwork(network, PRECISIONS[inference.precision])
    return Member(network, fast, preparation, SplitOnOutOfMemory(say))
