"""A report as Markdown."""

from __future__ import annotations

from .report import Report
from .tables import Table, tables


def headline(report: Report) -> str:
    """What was measured, on what and when, in a sentence."""
    model, machine = report.model, report.machine
    return (
        f"{model.name} ({model.precision}, {model.width} x {model.height} pixels, {model.engine} engine), task "
        f"{report.settings.task}, on {machine.processor} with {machine.cores} cores; {report.created}, "
        f"{report.seconds:.0f} s."
    )


def to_markdown(report: Report) -> str:
    """The whole report."""
    warned = "".join(f"> **Warning:** {text}\n>\n" for text in report.warnings)
    parts = ["# Benchmark", headline(report), warned.rstrip(">\n"), *map(table_text, tables(report))]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return text.replace("<", r"\<")  # tasks are written <CAPTION>, which renderers take for HTML


def table_text(table: Table) -> str:
    """One table under its title."""
    rule = ["---", *("---:" if any(table.header) else "---" for _ in table.header[1:])]
    rows = [table.header, rule, *([_cell(cell) for cell in row] for row in table.rows)]
    lines = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return "\n\n".join(part for part in (f"## {table.title}", table.text, lines) if part)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
