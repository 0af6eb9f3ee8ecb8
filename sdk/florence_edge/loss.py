"""What a lower precision cost: the numbers that a quantised bundle carries in its manifest."""

from __future__ import annotations

from dataclasses import dataclass

_PERCENT = 100


@dataclass(frozen=True)
class MetricLoss:
    """One task's metric with the reference and with this bundle, both scaled to 0..1 so that more is better."""

    task: str
    metric: str
    reference: float
    value: float
    count: int

    @property
    def lost(self) -> float:
        """What is missing to the reference; negative where this bundle is better."""
        return self.reference - self.value


@dataclass(frozen=True)
class Loss:
    """A bundle compared with its `reference`, the one it was quantised from.

    `metrics` rest on `data` with `images` images. Without annotated data they are empty, and `agreement` is the share
    of `tokens` tokens for which both bundles find the same one likeliest after the same beginning. `allowed` is the
    largest loss with which the bundle was to be written.
    """

    reference: str
    data: str
    images: int
    allowed: float
    metrics: tuple[MetricLoss, ...] = ()
    agreement: float | None = None
    tokens: int = 0

    @property
    def lost(self) -> float:
        """The mean loss of the metrics, or the share of tokens that differ."""
        if self.metrics:
            return sum(metric.lost for metric in self.metrics) / len(self.metrics)
        return 1.0 - (self.agreement or 0.0)

    def summary(self) -> str:
        """What was lost, in a line."""
        if self.metrics:
            worst = max(self.metrics, key=lambda metric: metric.lost)
            found = (
                f"{_PERCENT * self.lost:.2f} points of 100 over {len(self.metrics)} tasks, most in {worst.task} "
                f"({worst.metric} {_points(worst.reference)} to {_points(worst.value)})"
            )
        else:
            found = f"{_PERCENT * self.lost:.2f} % of {self.tokens} tokens differ"
        return f"{found}; {self.images} images of {self.data}, against {self.reference}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """A line per metric: what it is called, the reference's value, this bundle's, the loss; all times 100."""
        return [(f"{m.task} {m.metric}", _points(m.reference), _points(m.value), _points(m.lost)) for m in self.metrics]


def _points(value: float) -> str:
    return f"{_PERCENT * value:.1f}"
