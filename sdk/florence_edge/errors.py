"""Every error this project raises on purpose.

A message says what was given, what is allowed and what to do. Each class also derives from the built-in a caller would
expect (`ValueError`, `FileNotFoundError`, ...), so code that knows nothing of this package still catches it.
"""

from __future__ import annotations

from collections.abc import Sequence


class FlorenceError(Exception):
    """Base of every error raised on purpose by florence-edge."""


class InputError(FlorenceError, ValueError):
    """An argument of a call cannot be used: unknown task, missing or unwanted input, a prompt that is too long."""


class ImageError(InputError):
    """An image cannot be used: not an image, truncated, too large, empty, wrong dtype or shape, non-finite."""


class BundleError(FlorenceError, ValueError):
    """A bundle folder is not usable: missing or altered file, newer format, unknown key, path that leaves it."""


class CheckpointError(FlorenceError, ValueError):
    """A checkpoint folder is not usable; the message lists every fault that was found, not only the first."""


class BackendError(FlorenceError, RuntimeError):
    """A backend cannot open a bundle or failed while running it, for example because of non-finite logits."""


class EngineError(BackendError):
    """A TensorRT engine does not fit this machine; the message carries the command that builds one that does."""


class EngineFileError(EngineError):
    """An engine or its sidecar is missing, altered, unreadable, or the two do not belong together."""


class EngineVersionError(EngineError):
    """An engine was built by another version of TensorRT."""


class EngineDeviceError(EngineError):
    """An engine was built for another GPU."""


class EnginePluginError(EngineError):
    """The plugin library is missing, built for another TensorRT, or has another ABI than the engine was built with."""


class BuildError(FlorenceError, RuntimeError):
    """An engine could not be built: too little memory, a graph that TensorRT refuses, a builder that died."""


class DependencyError(FlorenceError, ImportError):
    """An optional library is missing or outside the supported range; the message carries the pip line that mends it."""


class ParityError(FlorenceError, RuntimeError):
    """A converted model differs from its reference by more than the stated tolerance."""


class RunError(FlorenceError, RuntimeError):
    """A batch finished, but some of its items failed; the message lists them."""


def listing(title: str, faults: Sequence[str]) -> str:
    """Joins faults into one message: the title, then one indented line per fault."""
    return "\n  - ".join([title, *faults])


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def missing(library: str, *, extra: str, needed_for: str) -> DependencyError:
    """Builds the error for an optional library that is not installed, naming the pip line that installs it."""
    return DependencyError(
        f"{library} is needed for {needed_for} but is not installed; run: pip install 'florence-edge[{extra}]'"
    )
