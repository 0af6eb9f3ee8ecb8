"""What labelling came to: per task what was asked and kept, what each filter took, and how the answers lie."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Report:
    """Numbers of images, of those with a label, and of turns written; `tasks` are those of `Tally.to_dict`."""

    images: int
    labelled: int
    turns: int
    steps: tuple[str, ...]
    tasks: Mapping[str, Any]
    faults: tuple[str, ...]
    plan: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def to_markdown(self) -> str:
        """Tables of what was kept and removed, and histograms in ten bins."""
        parts = [
            "# Labels",
            f"{self.images} images, {self.labelled} with a label; {self.turns} turns; {len(self.faults)} faults.",
            "Items (regions, lines, texts) by task: asked, taken by each step in this order, kept.",
            _table(
                ["task", "asked", *self.steps, "kept"],
                [
                    [f"`{token}`", task["items"]["asked"], *task["removed"].values(), task["items"]["kept"]]
                    for token, task in self.tasks.items()
                ],
            ),
            "Ten bins each; scores and sides from 0 to 1, counts from 0 to 9 or more.",
            _table(["task", "of", "asked", "", "kept", ""], self._histograms()),
        ]
        if self.faults:
            parts += ["## Faults", "\n".join(f"- {fault}" for fault in self.faults)]
        return "\n\n".join(parts) + "\n"

    def _histograms(self) -> list[list[Any]]:
        rows = []
        for token, task in self.tasks.items():
            for name, stages in task["histograms"].items():
                asked, kept = stages.get("asked", []), stages.get("kept", [])
                rows.append([f"`{token}`", name, _bars(asked), sum(asked), _bars(kept), sum(kept)])
        return rows


def _table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in row)} |" for row in lines)


def _bars(counts: list[int]) -> str:
    """Counts as bars; any count above 0 can be seen."""
    most = max(counts, default=0) or 1
    return "`" + "".join(_BARS[-(-count * (len(_BARS) - 1) // most)] for count in counts) + "`"
