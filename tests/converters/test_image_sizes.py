"""Image sizes a model may be converted for: exactly those its own tables and positions hold."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence_convert.sizes import resized
from florence_edge.errors import InputError
from florence_edge.geometry import ImageSize
from florence_edge.tasks import TASKS, InputKind
from florence_edge.tokens import Tokens
from florence_train.model import BASE
from florence_train.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokens() -> Tokens:
    return Tokens(train_tokenizer([task.prompt for task in TASKS], text_tokens=600))


def test_the_published_size_is_the_default(tokens: Tokens) -> None:
    assert resized(BASE, None, tokens) == BASE
    assert BASE.limits.prompt_tokens == 1024 - 577
    assert BASE.limits.new_tokens == 1023


@given(st.integers(1, 1700), st.integers(1, 1700))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_a_size_is_taken_when_tables_and_prompts_have_room(tokens: Tokens, height: int, width: int) -> None:
    rows, columns = -(-height // 32), -(-width // 32)  # four convolutions that halve or quarter, rounding up
    longest = max(len(tokens.encode(task.prompt)) for task in TASKS if task.input is InputKind.NONE)
    fits = rows <= 50 and columns <= 50 and 1 + rows * columns + longest <= 1024
    if fits:
        changed = resized(BASE, ImageSize(width, height), tokens)
        assert (changed.image.height, changed.image.width) == (height, width)
        assert changed.limits.prompt_tokens == 1023 - rows * columns
    else:
        with pytest.raises(InputError, match=r"the largest square is \d+x\d+"):
            resized(BASE, ImageSize(width, height), tokens)


def test_a_refusal_says_why_and_what_is_allowed(tokens: Tokens) -> None:
    with pytest.raises(InputError, match=r"feature map exceeds the 50x50 position table"):
        resized(BASE, ImageSize(1664, 64), tokens)
    with pytest.raises(InputError, match=r"no room for a prompt|leave -?\d+ encoder positions"):
        resized(BASE, ImageSize(1024, 1024), tokens)
    with pytest.raises(InputError, match=r"31 encoder positions|cells of 32 pixels"):
        resized(BASE, ImageSize(1600, 650), tokens)
    with pytest.raises(InputError):
        resized(BASE, ImageSize(0, 64), tokens)
