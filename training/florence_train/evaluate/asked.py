"""What a command means by DATA: annotations of any form, or tabletop scenes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from florence_edge.preprocess import ImageSpec
from florence_train.data import Dataset, Record, load, tabletop
from florence_train.data.load import OnFault
from florence_train.data.scenes import split_named

SCENES = 200
"""Tabletop scenes where no limit is given."""


@dataclass(frozen=True)
class Asked:
    """DATA as the command line has it: its name, where its images lie, which tasks, how many images, bad ones."""

    data: str
    images: str | None = None
    tasks: Sequence[str] = ()
    limit: int | None = None
    faults: OnFault = "raise"

    def records(self, image: ImageSpec) -> tuple[Dataset | Iterable[Record], int]:
        """What to ask, and about how many images; scenes are rendered at the size the model sees."""
        split = split_named(self.data)
        if not split:
            data = load(self.data, images=self.images, tasks=self.tasks, check="header", faults=self.faults)
            return data, min(len(data), self.limit or len(data))
        from florence_train.tabletop import TabletopConfig

        count = self.limit or SCENES
        return tabletop(split, count, config=TabletopConfig(height=image.height, width=image.width)), count
