"""The whole road to engines on one machine, in one run and one file to send back.

    python -m florence_convert.build.acceptance [BUNDLE] [--precision fp16] [--out FILE.json] [--low-memory]

builds the engines, with their gate; opens them; compares answers with the ONNX bundle's; times encoding and answers.
The report says of every step whether it passed, and of the first that failed why; what was found before stays in it.
"""

from __future__ import annotations

import argparse
import json
import platform as system
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from florence_convert.comparison import SEARCHES, CaseOptions, Cases, count_identical, draw_cases, search_answers
from florence_edge import __version__
from florence_edge.backends import Backend
from florence_edge.backends.onnx import OnnxBackend
from florence_edge.backends.tensorrt.backend import TensorRTBackend
from florence_edge.bundle import Bundle
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.health.checks import Check, machine
from florence_edge.health.nvidia import engines, jetson
from florence_edge.options import SearchOptions
from florence_edge.tokens import Tokens

from .command import read_sidecars
from .pipeline import Tools, build_bundle
from .settings import BuildOptions

FLOATS = ("fp16", "bf16", "fp32")
NEW_TOKENS = 32
WARM_UP, REPEATS = 3, 20
_PAIRS = 16


@dataclass
class Report:
    """Everything that was found. `steps` are name, passed, seconds and the reason of a failure, in order."""

    version: str = __version__
    python: str = system.python_version()
    system: str = f"{system.system()} {system.release()} {system.machine()}"
    bundle: str = ""
    passed: bool = False
    checks: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    identical: dict[str, str] = field(default_factory=dict)
    milliseconds: dict[str, dict[str, float]] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Notes how a step ended; a failure goes on to whoever runs the steps."""
        print(f"{name} ...", flush=True)
        started, reason = time.monotonic(), ""
        try:
            yield
        except BaseException as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            seconds = round(time.monotonic() - started, 2)
            self.steps.append({"name": name, "passed": not reason, "seconds": seconds, "reason": reason})
            print(f"  {reason or 'passed'} ({seconds} s)", flush=True)


def accept(
    source: str, options: BuildOptions, folder: Path, *, tools: Callable[[], Tools] = Tools.here, repeats: int = REPEATS
) -> Report:
    """Runs every step over the engines of a bundle, built below `folder`; only an interruption is raised."""
    report = Report(bundle=source)
    report.checks = [asdict(check) for check in _look()]
    try:
        _run(report, source, options, folder, tools, repeats)
        report.passed = True
    except Exception as error:  # whatever it is, the report is what its reader needs
        print(f"stopped: {error}", file=sys.stderr)
    return report


def _look() -> Iterator[Check]:
    """What the doctor says of the machine."""
    yield from machine()
    yield from jetson()
    yield from engines()


def _run(
    report: Report, source: str, options: BuildOptions, folder: Path, tools: Callable[[], Tools], repeats: int
) -> None:
    with report.step("libraries"):
        found = tools()
    with report.step("build and gate"):
        bundle = build_bundle(source, folder / "engines", options, tools=found)
    sidecars = {sidecar.part: sidecar for sidecar in read_sidecars(bundle)}
    report.engines = [asdict(sidecar) for sidecar in sidecars.values()]
    beams = sorted({sizes["K"][1] for sizes in sidecars["decoder"].buckets})
    original = Bundle.open(source)
    cases = draw_cases(
        original.manifest.image,
        Tokens.load(original.tokenizer),
        original.manifest.limits,
        CaseOptions(pairs=_PAIRS, new_tokens=NEW_TOKENS),
    )

    def opened() -> TensorRTBackend:
        return TensorRTBackend(bundle, found.platform, plugins=found.plugins)

    with report.step("answers"):
        report.identical = _compare(original, opened, cases, beams)
    with report.step("two models in one process"):
        _open_two(opened, cases.pixels[:1])
    with report.step("timing"), closing(opened()) as backend:
        report.milliseconds = _time(backend, cases.pixels[:1], cases.prompts[0], beams, repeats)


def _compare(original: Bundle, opened: Callable[[], Backend], cases: Cases, beams: Sequence[int]) -> dict[str, str]:
    """How many answers have the ONNX bundle's token ids, per search; its sessions are gone before the engines open."""
    searches = {name: search for name, search in SEARCHES.items() if search.beams in beams}
    wanted = search_answers(OnnxBackend(original), cases, searches)
    with closing(opened()) as backend:
        same = count_identical(wanted, search_answers(backend, cases, searches))
    return {name: f"{count} of {_PAIRS}" for name, count in same.items()}


def _open_two(opened: Callable[[], Backend], pixels: Float32Array) -> None:
    """The second model must outlive the first: they share the device's context and the plugins."""
    first, second = opened(), opened()
    for backend in (first, second):
        backend.encode_image(pixels)
        backend.close()


def _time(
    backend: Backend, pixels: Float32Array, prompt: Int64Array, beams: Sequence[int], repeats: int
) -> dict[str, dict[str, float]]:
    """Median, least and most of encoding an image, and of answers of a fixed length, per token too."""
    features = backend.encode_image(pixels)
    found = {"encode": _repeat(lambda: backend.encode_image(pixels), repeats)}
    for count in beams:
        for tokens in (1, NEW_TOKENS):
            options = SearchOptions(beams=count, max_new_tokens=tokens, min_new_tokens=tokens)
            answer = partial(backend.generate, features, [prompt], options)
            found[f"{tokens} tokens, {count} beams"] = _repeat(answer, repeats)
        short, long = (found[f"{tokens} tokens, {count} beams"]["median"] for tokens in (1, NEW_TOKENS))
        found[f"per token, {count} beams"] = {"median": round((long - short) / (NEW_TOKENS - 1), 4)}
    return found


def _repeat(call: Callable[[], object], repeats: int) -> dict[str, float]:
    for _ in range(WARM_UP):
        call()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - started))
    spread = {"median": statistics.median(times), "least": min(times), "most": max(times)}
    return {**{name: round(value, 3) for name, value in spread.items()}, "repeats": repeats}


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 when a step failed."""
    parser = argparse.ArgumentParser(prog="python -m florence_convert.build.acceptance", description=__doc__)
    parser.add_argument("bundle", nargs="?", default="tabletop", help="an ONNX bundle [tabletop]")
    parser.add_argument("--precision", choices=FLOATS, default="fp16", help="[fp16]")
    parser.add_argument("--low-memory", action="store_true", help="for boards with 8 GB")
    parser.add_argument("--out", type=Path, default=Path("tensorrt-acceptance.json"), help="the report [%(default)s]")
    given = parser.parse_args(arguments)
    options = BuildOptions(precision=given.precision, batches=(1, 2), low_memory=given.low_memory)
    with tempfile.TemporaryDirectory(prefix="florence-acceptance-") as folder:
        report = accept(given.bundle, options, Path(folder))
    given.out.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    print(f"{'passed' if report.passed else 'FAILED'}; please send back {given.out}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
