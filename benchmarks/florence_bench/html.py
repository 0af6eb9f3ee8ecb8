"""A report as one HTML file: pictures inline, no scripts, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import escape

from .markdown import headline
from .plots import growth_plot, latency_distribution, race_bars, roofline_plot, stage_bars
from .report import Report
from .tables import GROWTH, Table, estimate, tables

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #667; --line: #8883; --card: #f6f7f9; --page: #fff;
  --c0: #3b6fb6; --c1: #d9822b; --c2: #4c9f70; --c3: #b5486b; --c4: #7a5fb0; --c5: #8a8f98; }
@media (prefers-color-scheme: dark) { :root { --ink: #dde; --soft: #99a; --card: #1c1f24; --page: #14161a;
  --c0: #6f9fe0; --c1: #e8a35c; --c2: #74c298; --c3: #d97b9b; --c4: #a48fd6; } }
body { font: 15px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1200px; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .3rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.warning { border-left: 4px solid var(--c1); background: var(--card); padding: .45rem .8rem; margin: .5rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(480px, 100%), 1fr)); gap: 1rem;
  align-items: start; margin: 1rem 0; }
figure { margin: 0; background: var(--card); border-radius: 10px; padding: .6rem; overflow-x: auto; }
figcaption { font-weight: 600; font-size: .9rem; padding: .1rem .3rem .4rem; }
svg { width: 100%; min-width: 460px; height: auto; display: block; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .82rem; font-variant-numeric: tabular-nums; margin: .6rem 0; }
th, td { padding: .25rem .55rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: nowrap; }
td:first-child, td.long { white-space: normal; min-width: 10em; }
th { font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
.facts td { text-align: left; min-width: 0; }
code { font-size: .92em; }
"""
_LONG = 40
"""Characters from which on a cell may wrap."""


def to_html(report: Report) -> str:
    """The whole report."""
    warned = "".join(f'<p class="warning">{escape(text)}</p>' for text in report.warnings)
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>" for name, svg in _figures(report)
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Benchmark of {escape(report.model.name)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Benchmark of {escape(report.model.name)}</h1>
<p class="soft">{escape(headline(report))}</p>
{warned}
<div class="plots">{figures}</div>
{"".join(map(_section, tables(report)))}
</body>
</html>
"""


def _figures(report: Report) -> Iterator[tuple[str, str]]:
    yield "Where the time goes", stage_bars(report.stages)
    yield "How steady it is", latency_distribution(report.stages.total_ms)
    if report.roofline and report.roofline.points:
        yield "How near to the machine's limits", roofline_plot(report.roofline)
    for growth in report.growth:
        verdict = GROWTH[growth.linear_or_better]
        yield f"{growth.varied.capitalize()}: {verdict}, exponent {estimate(growth.exponent)}", growth_plot(growth)
    if report.race:
        for beams in sorted({finish.beams for finish in report.race.finishes}, reverse=True):
            for name, described in report.race.workloads.items():
                searched = "greedy" if beams == 1 else f"{beams} beams"
                yield f"Race, {searched}: {described}", race_bars(report.race, name, beams)


def _section(table: Table) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.header)
    rows = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in table.rows)
    named = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    kind = "" if any(table.header) else ' class="facts"'
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(table.text))
    return (
        f"<h2>{escape(table.title)}</h2><p class='soft'>{text}</p>"
        f"<div class='scroll'><table{kind}>{named}<tbody>{rows}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """A cell; a long one may wrap."""
    opened = "<td class='long'>" if len(text) > _LONG else "<td>"
    return f"{opened}{escape(text)}</td>"
