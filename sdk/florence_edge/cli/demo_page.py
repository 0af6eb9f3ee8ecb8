"""The page that shows the demo's pictures: one HTML file without scripts or anything from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from florence_edge.prompts import TaskInput
from florence_edge.results import Result, Text
from florence_edge.tasks import DETAIL, Task

from .show import show, summary

_DETAILS = {token: detail for detail, token in DETAIL.items()}


@dataclass(frozen=True, eq=False)
class Answer:
    """A task, its input and its result."""

    task: Task
    given: TaskInput
    result: Result

    @property
    def picture(self) -> str:
        """The file name of the annotated picture."""
        return f"{self.task.name}.png"

    @property
    def asked(self) -> str:
        """The input as text, empty when there is none."""
        if self.given is None:
            return ""
        return self.given if isinstance(self.given, str) else ", ".join(str(item) for item in self.given)  # type: ignore[union-attr]  # the demo gives texts and lists only

    @property
    def method(self) -> str:
        """The method that asks it, with the detail of a caption."""
        detail = _DETAILS.get(self.task.token)
        return self.task.method if detail is None else f"{self.task.method}, {detail}"

    @property
    def call(self) -> str:
        """The line of Python that asks it."""
        given = "" if self.given is None else f", {self.given!r}"
        detail = f", detail={_DETAILS[self.task.token]!r}" if self.task.token in _DETAILS else ""
        return f"model.{self.task.method}(view{given}{detail})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `results.json`."""
        return {"task": self.task.token, "input": self.given, "picture": self.picture, "result": self.result.to_dict()}


_STYLE = """
:root { color-scheme: light dark; --line: #8883; --soft: #888; --card: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1240px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; }
h2 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
.note { border-left: 4px solid #d90; padding: .4rem .8rem; background: var(--card); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(360px, 1fr)); gap: 1.2rem; }
article { border: 1px solid var(--line); border-radius: 10px; overflow: hidden; background: var(--card); }
article img { width: 100%; display: block; }
article div { padding: .7rem .9rem; }
code, pre { font: 12px/1.45 ui-monospace, monospace; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 12rem; overflow: auto; margin: .4rem 0 0; }
pre.rows { white-space: pre; overflow-wrap: normal; }
small { color: var(--soft); }
"""


def page(report: dict[str, Any], answers: list[Answer]) -> str:
    """The page as HTML; every text from the model is escaped."""
    times = report["timings_ms"]
    note = "" if report["knows_the_picture"] else _NOTE
    cards = "\n".join(_card(answer) for answer in answers)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>florence-edge: {len(answers)} tasks, one image</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{len(answers)} tasks, one image</h1>
<p><small>model {escape(report["model"])} · loaded in {times["load_model"]:.0f} ms · image encoded once in
{times["encode_image"]:.0f} ms</small></p>
{note}
<div class="grid">
{cards}
</div>
</body>
</html>
"""


_NOTE = '<p class="note">This is a small random model: everything runs, but its answers mean nothing.</p>'


def _card(answer: Answer) -> str:
    is_text = isinstance(answer.result, Text)
    shown = str(answer.result) if is_text else show(answer.result)
    return f"""<article>
<img src="{escape(answer.picture)}" alt="{escape(answer.task.name)}" loading="lazy">
<div><h2>{escape(answer.task.token)}</h2>
<code>{escape(answer.call)}</code><br>
<small>{escape(summary(answer.result))}</small>
<pre{"" if is_text else ' class="rows"'}>{escape(shown)}</pre></div>
</article>"""
