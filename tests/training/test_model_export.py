"""The three generation methods go through torch's ONNX exporter as they stand, with dynamic sizes, in eval mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from florence_train.model import CrossCache, FlorenceModel, SelfCache
from florence_train.tiny import tiny_config

CONFIG = tiny_config(300)
LAYERS, HEADS, HEAD_DIM = 2, 4, 16
AUTO = torch.export.Dim.AUTO


class _Method(nn.Module):
    """Gives one method of the model a forward, as the exporter wants it."""

    def __init__(self, model: FlorenceModel, name: str) -> None:
        super().__init__()
        self.model = model
        self.name = name

    def forward(self, *inputs: Any) -> Any:
        return getattr(self.model, self.name)(*inputs)


@pytest.fixture(scope="module")
def model() -> FlorenceModel:
    torch.manual_seed(0)
    return FlorenceModel(CONFIG).eval()


def flat(value: Any) -> list[Tensor]:
    return torch.utils._pytree.tree_leaves(value)


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step_inputs(batch: int, beams: int, length: int, keys: int) -> tuple[Any, ...]:
    cached = [draw((batch, HEADS, length, beams, HEAD_DIM), i) for i in range(2 * LAYERS)]
    crossed = [draw((batch, HEADS, keys, HEAD_DIM), 10 + i) for i in range(2 * LAYERS)]
    generator = torch.Generator().manual_seed(batch)
    ancestors = torch.randint(-1, beams, (batch, beams, length), generator=generator, dtype=torch.int32)
    mask = torch.arange(keys).expand(batch, -1) < keys - torch.arange(batch)[:, None]
    return (
        torch.randint(300, (batch, beams), generator=generator),
        torch.tensor(length - 1),
        ancestors,
        SelfCache(cached[:LAYERS], cached[LAYERS:]),
        CrossCache(crossed[:LAYERS], crossed[LAYERS:], mask),
    )


def prompt_inputs(batch: int, features: int, length: int) -> tuple[Tensor, ...]:
    ids = torch.randint(300, (batch, length), generator=torch.Generator().manual_seed(length))
    mask = torch.arange(length).expand(batch, -1) < length - torch.arange(batch)[:, None]
    return draw((batch, features, CONFIG.text.dim), 0), ids, mask


CACHED: Any = [{0: AUTO, 2: AUTO, 3: AUTO}] * LAYERS
CROSSED: Any = [{0: AUTO, 2: AUTO}] * LAYERS
PAIR: Any = {0: AUTO, 1: AUTO}
# Method: example inputs, the dynamic sizes, and inputs of other sizes to run the graph with.
CASES: dict[str, tuple[Any, Any, Any]] = {
    "encode_image": ((draw((2, 3, 72, 64), 1),), ({0: AUTO},), (draw((3, 3, 72, 64), 2),)),
    "encode_prompt": (prompt_inputs(2, 5, 7), (PAIR, PAIR, PAIR), prompt_inputs(3, 10, 4)),
    "decode_step": (
        step_inputs(2, 3, 6, 12),
        (
            PAIR,
            {},
            {0: AUTO, 1: AUTO, 2: AUTO},
            SelfCache(CACHED, CACHED),
            CrossCache(CROSSED, CROSSED, PAIR),
        ),
        step_inputs(1, 5, 9, 20),
    ),
}


@pytest.mark.parametrize("method", CASES)
def test_method_is_traced_with_dynamic_sizes(method: str, model: FlorenceModel) -> None:
    example, dynamic, other = CASES[method]
    program = torch.export.export(_Method(model, method).eval(), example, dynamic_shapes=(dynamic,))
    assert not any("scaled_dot_product" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        found, wanted = flat(program.module()(*other)), flat(getattr(model, method)(*other))
    for left, right in zip(found, wanted, strict=True):
        np.testing.assert_allclose(left.numpy(), right.numpy(), atol=2e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", CASES)
def test_method_becomes_a_plain_onnx_graph(method: str, model: FlorenceModel, tmp_path: Path) -> None:
    example, dynamic, other = CASES[method]
    path = tmp_path / "graph.onnx"
    program = torch.onnx.export(
        _Method(model, method).eval(), example, dynamo=True, opset_version=20, dynamic_shapes=(dynamic,), verbose=False
    )
    assert program is not None
    program.save(str(path))
    nodes = onnx.load(path).graph.node
    assert not {node.op_type for node in nodes} & {"If", "Loop", "Scan"}, "no branch may depend on values"
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {item.name: tensor.numpy() for item, tensor in zip(session.get_inputs(), flat(other), strict=True)}
    with torch.no_grad():
        expected = flat(getattr(model, method)(*other))
    for found, wanted in zip(session.run(None, feeds), expected, strict=True):
        np.testing.assert_allclose(found, wanted.numpy(), atol=2e-4)
