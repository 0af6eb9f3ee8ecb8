"""The command `florence-edge`: `main` finds the subcommands, one module each holds those of the SDK."""

from __future__ import annotations

import signal
from collections.abc import Mapping

from florence_edge.errors import InputError

FAILED, USAGE, SLOWER, INTERRUPTED, TERMINATED = 1, 2, 3, 130, 143
"""Exit codes beside 0, as `EXIT_CODES` explains them; those of signals are 128 + their number, as shells have it."""
EXIT_CODES = """exit codes:
  0    done, and nothing was found wrong
  1    failed, or something was found wrong; stderr says what
  2    the command line cannot be understood
  3    bench --compare: something got slower
  130  stopped before the end, by Ctrl-C say; what was finished is kept
  143  the same of watch, train and iterate, by SIGTERM"""

ENDINGS: Mapping[int, tuple[int, str]] = {
    signal.SIGINT: (INTERRUPTED, "interrupted"),
    signal.SIGTERM: (TERMINATED, "terminated"),
}
"""Exit code and word of a command that one of these signals ended."""


class UsageError(InputError):
    """Options of a command line that do not go together; the command ends with exit code 2."""
