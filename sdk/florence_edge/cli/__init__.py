"""The command `florence-edge`: `main` finds the subcommands, one module each holds those of the SDK."""

from __future__ import annotations

from florence_edge.errors import InputError

FAILED, USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0: an error, a wrong command line, Ctrl-C (128 + SIGINT, as shells have it)."""


class UsageError(InputError):
    """Options of a command line that do not go together; the command ends with exit code 2."""
