"""What can go wrong in a benchmark beside what goes wrong in the SDK."""

from __future__ import annotations

from florence_edge.errors import FlorenceError


class BenchmarkError(FlorenceError, RuntimeError):
    """A measurement cannot be made or used: a worker that died, results that must not be compared, too few samples."""
