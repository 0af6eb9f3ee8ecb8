"""Every page says what is so: its code compiles and imports, its commands parse, its links and paths lead somewhere."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.metadata
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from florence_edge.bundle import PICTURE, Bundle
from florence_edge.cli.main import Parser, build_parser
from florence_edge.health.checks import EXTRAS

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "examples", "kernels", "sdk")
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])


class Block(NamedTuple):
    """A block of code on a page: its language (empty for none), its first line, its text."""

    page: Path
    language: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """Fenced blocks and indented ones."""
    language: str | None = None
    begun = 0
    lines: list[str] = []
    indented: list[str] = []
    for number, line in enumerate([*page.read_text(encoding="utf-8").splitlines(), ""], 1):
        if language is None and indented and not line.startswith("    "):
            yield Block(page, "", number - len(indented), "\n".join(indented))
            indented = []
        if line.startswith("```"):
            if language is None:
                language, begun, lines = line[3:].strip(), number + 1, []
            else:
                yield Block(page, language, begun, "\n".join(lines))
                language = None
        elif language is not None:
            lines.append(line)
        elif line.startswith("    "):
            indented.append(line[4:])


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUNNABLE = ("README.md", "docs/python.md")
"""Pages whose Python runs as it stands, from top to bottom, where `make demo` left its picture."""


def prose(page: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command line of florence-edge in a block: where it stands, its words; what is optional counts as given."""
    for block in BLOCKS:
        for line in block.text.replace("\\\n", " ").splitlines():
            if re.match(r"\s*(\$ )?florence-edge ", line):
                words = shlex.split(re.sub(r"\[(--[^\]]*)\]", r"\1", line), comments=True)
                yield block.where, [word for word in words if word != "$"][1:]


def subcommands(parser: argparse.ArgumentParser) -> dict[str, Parser]:
    (action,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(action.choices)


@pytest.fixture(scope="module")
def parser() -> Parser:
    """The parser with the commands of every package."""
    return build_parser(["--help"])


def test_there_is_something_to_look_at() -> None:
    assert len(PAGES) > 15
    assert len(PYTHON) > 5
    assert len(list(commands())) > 30


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_python_compiles_and_what_it_imports_is_there(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text, block.where)):
        if isinstance(node, ast.Import):
            for name in node.names:
                importlib.import_module(name.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{block.where}: {node.module} has no {name.name}"


@pytest.mark.parametrize("name", RUNNABLE)
def test_python_runs_as_written(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "demo").mkdir()
    shutil.copy(Bundle.open("tabletop").path(PICTURE), tmp_path / "demo/image.png")
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in (block for block in PYTHON if block.page == ROOT / name):
        exec(compile("\n" * (block.line - 1) + block.text, str(block.page), "exec"), namespace)


@pytest.mark.parametrize(
    ("where", "words"), list(commands()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_command_line_parses(where: str, words: list[str], parser: Parser) -> None:
    try:
        parser.parse_args(words)
    except SystemExit as stop:
        pytest.fail(f"{where}: florence-edge {shlex.join(words)} ends with {stop.code}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_in_the_text_exist(page: Path, parser: Parser) -> None:
    known = subcommands(parser)
    for code in re.findall(r"`florence-edge ([a-z][^`]*)`", prose(page)):
        command, *rest = code.split()
        assert command in known, f"florence-edge {code}"
        unknown = [word for word in rest if word.startswith("--") and word not in known[command]._option_string_actions]
        assert not unknown, f"florence-edge {code}"
    options = {option for command in known.values() for option in command._option_string_actions}
    if page.parent in (ROOT, ROOT / "docs"):
        for code in re.findall(r"`(--[a-z][a-z-]*)[ `]", prose(page)):
            assert code in options | {"--size", "--dtype"}, f"{code} is an option of no command"  # of kernels/measure


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        assert place.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{target}: no such heading"
    for code in re.findall(
        r"`((?:benchmarks|converters|docs|examples|kernels|sdk|tests|training)/[\w./*-]*)`", prose(page)
    ):
        assert list(ROOT.glob(code.rstrip("/"))) or "<" in code, f"{code} is not in the repository"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_extras_and_make_targets_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    extras = set(importlib.metadata.metadata("florence-edge").get_all("Provides-Extra") or [])
    for names in re.findall(r"(?:florence-edge|'\.)\[([a-z,]+)\]", text):
        assert set(names.split(",")) <= extras, names
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z0-9-]+)", text, re.MULTILINE)) <= targets


def test_the_doctor_knows_what_every_extra_is_for() -> None:
    extras = set(importlib.metadata.metadata("florence-edge").get_all("Provides-Extra") or [])
    assert set(EXTRAS) == extras - {"dev"}
