"""The command `florence-edge`.

Subcommands come from the modules of `OWN` and from the entry-point group `florence_edge.commands`, where other
packages register theirs: each entry is a function `register(subparsers) -> None` that adds parsers with
`set_defaults(run=function)`, and `function(arguments) -> int` gives the exit code. A package whose entry cannot be
loaded costs its own commands only.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NoReturn

from florence_edge._version import __version__
from florence_edge.errors import FlorenceError

from . import EXIT_CODES, FAILED, INTERRUPTED, USAGE, UsageError

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction["Parser"]
    Register = Callable[[Subparsers], None]

GROUP = "florence_edge.commands"
OWN = ("demo", "run", "watch", "serve", "info", "doctor")


class _Help(argparse.HelpFormatter):
    """Paragraphs filled to the terminal's width; those with indented lines are left as they are."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26)
        self._action_max_length = 13  # commands are indented twice, which argparse forgets when it lines them up

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.strip("\n").split("\n\n")
        return "\n\n".join(
            paragraph if "\n  " in f"\n{paragraph}" else super(_Help, self)._fill_text(paragraph, width, indent)
            for paragraph in paragraphs
        )


class Parser(argparse.ArgumentParser):
    """A parser that takes options between file names, and whose errors also say which commands are absent and why."""

    notes: tuple[str, ...] = ()
    _intermixed = False

    def __init__(self, *arguments: Any, **options: Any) -> None:  # as argparse has it
        """As argparse, but options are not abbreviated: a new one must never change what a script means."""
        super().__init__(*arguments, **{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but options may stand between file names, and what is left over is an error of this command."""
        if self._subparsers is not None or self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = True  # the method below comes back here
        try:
            known, left = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False
        if left:
            option = left[0].partition("=")[0]
            close = difflib.get_close_matches(option, self._option_string_actions, n=1)
            self.error(f"unrecognized arguments: {' '.join(left)}{f'; did you mean {close[0]}?' if close else ''}")
        return known, left

    def _get_formatter(self) -> argparse.HelpFormatter:
        return _Help(self.prog)

    def error(self, message: str) -> NoReturn:
        """Prints one line (and why commands are absent) and exits with 2."""
        self.exit(USAGE, "\n".join([f"{self.prog}: error: {message}", *self.notes, f"try: {self.prog} --help"]) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand and returns its exit code; an error is one line on stderr (with FLORENCE_DEBUG, a trace)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _print_anything()
    try:
        options = build_parser(given).parse_args(given)
        run: Callable[[argparse.Namespace], int] = options.run
        code = run(options)
        sys.stdout.flush()  # here, where a reader that went away can be caught
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains when it flushes
        return FAILED
    except UsageError as error:
        return _complain(f"error: {error}", USAGE)
    except FlorenceError as error:
        return _complain(f"error: {error}", FAILED)
    except OSError as error:
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _complain(f"error: {named}{error.strerror or error}", FAILED)
    except Exception as error:
        return _complain(f"internal error: {type(error).__name__}: {error}; FLORENCE_DEBUG=1 shows where", FAILED)


def _print_anything() -> None:
    """Lets names that are no Unicode, terminals that know ASCII only, and closed streams not cost the command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # the shell closed it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def build_parser(given: Sequence[str]) -> Parser:
    """The parser for a command line; other packages are loaded only when no command of the SDK is asked for."""
    parser = Parser(prog="florence-edge", description="Florence-2 at the edge: caption, detect, ground, segment, read.")
    parser.add_argument("--version", action="version", version=f"florence-edge {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    for name in OWN:
        importlib.import_module(f".{name}", __package__).register(subparsers)
    if not (given and given[0] in OWN):
        parser.notes = tuple(_register_others(subparsers))
    parser.epilog = "\n\n".join([EXIT_CODES, *parser.notes])
    _suggest(parser, given, tuple(subparsers.choices))
    return parser


def _register_others(subparsers: Subparsers) -> list[str]:
    """Adds the commands of other packages; returns a line for each entry that failed."""
    failed = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            register: Register = entry.load()
            register(subparsers)
        except Exception as error:  # whatever another package's import can raise
            failed.append(_absent(entry, error))
    return failed


def _absent(entry: EntryPoint, error: Exception) -> str:
    return f"florence-edge: note: the commands of {entry.name!r} ({entry.value}) are absent: {error}"


def _suggest(parser: Parser, given: Sequence[str], commands: Sequence[str]) -> None:
    """Ends with a suggestion when the first word is no command."""
    word = given[0] if given else "-"
    if word.startswith("-") or word in commands:
        return
    close = difflib.get_close_matches(word, commands, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    parser.error(f"there is no command {word!r}; {meant}the commands are: {', '.join(commands)}")


def _complain(message: str, code: int) -> int:
    """Reports the exception being handled on stderr."""
    if os.environ.get("FLORENCE_DEBUG"):
        traceback.print_exc()
    print(f"florence-edge: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
