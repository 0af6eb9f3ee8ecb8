"""The report of an evaluation as a page and as JSON, from numbers made up here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from florence_edge.errors import InputError
from florence_train.evaluate.report import Metric, Report, Table, Worst

REPORT = Report(
    model={"bundle": "here"},
    data="val.jsonl",
    settings={"confidence": 0.9, "limit": None},
    images=4,
    questions=12,
    metrics=(
        Metric("<OD>", "mAP", 0.1234, 0.0, 0.25, 7, "higher", "COCO val2017 mAP"),
        Metric("<OCR>", "CER", 0.5, None, None, 3, "lower"),
        Metric("<OCR>", "mAP", None, None, None, 0),
    ),
    tables=(Table("<OD>", "per class", ("objects", "AP"), (("a|b", (3, 0.5)), ("cup", (0, None)))),),
    worst=(
        Worst("<OD>", "a.png", "", 0.25, "cup`s", "two\nlines", "worst/a.png"),
        Worst("<ASK>", "b.png", "how many?", 0.0, "2", "3"),
    ),
    failures=("a.png: <OD>: cut",),
    faults=("line 2: empty", "line 3: empty"),
    seconds=8.0,
    machine={"system": "Linux"},
)
PAGE = r"""# Evaluation on val.jsonl

4 images, 12 questions, 8.0 s (0.50 images/s).

- bundle: here
- confidence: 0.9
- system: Linux

## Metrics

Values times 100, with 90 % bootstrap intervals over images.

| task | metric | value | interval | n | row of the paper |
|---|---|---:|---|---:|---|
| `<OD>` | mAP | 12.3 | 0.0 to 25.0 | 7 | COCO val2017 mAP |
| `<OCR>` | CER (lower is better) | 50.0 | - | 3 | - |
| `<OCR>` | mAP | - | - | 0 | - |

## `<OD>`: per class

| class | objects | AP |
|---|---:|---:|
| a\|b | 3 | 50.0 |
| cup | 0 | - |

## Worst answers

### `<OD>` on a.png (quality 0.25)

![truth left, answer right](worst/a.png)

- truth: `cup's`
- answer: `two lines`

### `<ASK>` how many? on b.png (quality 0.00)

- truth: `2`
- answer: `3`

## Questions without an answer (1)

- a.png: <OD>: cut

## Data left out (2)

- line 2: empty
- line 3: empty

"""


def test_the_page_says_all_there_is() -> None:
    assert REPORT.to_markdown() == PAGE
    assert "0.00 images/s" in replace(REPORT, seconds=0.0).to_markdown()


def test_a_metric_is_found_by_its_task_and_its_name() -> None:
    assert REPORT.metric("<OCR>", "mAP").value is None
    with pytest.raises(InputError, match="<OD> CER was not measured; what was: <OD> mAP, <OCR> CER, <OCR> mAP"):
        REPORT.metric("<OD>", "CER")


def test_json_is_strict() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(REPORT, seconds=float("nan")).to_json()
