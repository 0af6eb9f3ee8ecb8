"""How far a build has come, from the nested phases that TensorRT reports."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Phase:
    steps: int
    parent: str | None
    done: int = 0


class Phases:
    """The phases that are open. A phase of n steps is worth one step of its parent."""

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._best = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins; `parent` is the phase it belongs to."""
        self._open[name] = _Phase(max(steps, 1), parent if parent in self._open else None)

    def step(self, name: str, step: int) -> None:
        """Step number `step`, from 0, of a phase is finished."""
        if name in self._open:
            self._open[name].done = step + 1

    def finish(self, name: str) -> None:
        """A phase ends."""
        self._open.pop(name, None)

    def fraction(self) -> float:
        """How much of the build is done, 0 to 1; never less than it was, though TensorRT opens new phases late."""
        roots = [name for name, phase in self._open.items() if phase.parent is None]
        if roots:
            self._best = max(self._best, min(self._share(name) for name in roots))
        return self._best

    def _share(self, name: str) -> float:
        phase = self._open[name]
        inner = [self._share(child) for child, other in self._open.items() if other.parent == name]
        return min((phase.done + max(inner, default=0.0)) / phase.steps, 1.0)
