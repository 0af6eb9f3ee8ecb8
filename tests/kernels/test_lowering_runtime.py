"""A whole search the way a device runs it: the lowered decoder, KV append and beam step of the kernels, nothing else.

The graph runs in ONNX Runtime and the kernels are their twins; state goes from one to the other as it lies in memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from florence_convert.comparison import CaseOptions, draw_cases
from florence_convert.lowering import Precision, lower
from florence_edge.bundle import Bundle
from florence_edge.geometry import AnyArray
from florence_edge.options import SearchConfig, SearchOptions
from florence_edge.tokens import Tokens
from support.beam_search import Options, Search
from support.kernels import DTYPES, Kernels, dims
from support.lowered import LoweredDecoder, LoweredModel


def options_of(config: SearchConfig, vocabulary: int) -> Options:
    assert config.early_stopping is True
    return Options(
        beams=config.beams,
        vocab=vocabulary,
        max_length=config.max_new_tokens + 1,
        start_token=config.decoder_start,
        eos_token=config.eos,
        forced_bos_token=-1 if config.forced_bos is None else config.forced_bos,
        forced_eos_token=-1 if config.forced_eos is None else config.forced_eos,
        no_repeat_ngram=config.no_repeat_ngram,
        min_new_tokens=config.min_new_tokens,
        early_stopping=1,
        length_penalty=config.length_penalty,
    )


def append(kernels: Kernels, decoder: LoweredDecoder, found: dict[str, AnyArray], dtype: str) -> None:
    """`florence_kv_append` for every layer."""
    batch, beams, heads, length, head_dim = decoder.caches["self_key_0"].shape
    size: dict[str, Any] = {"batch": batch, "beams": beams, "heads": heads, "head_dim": head_dim, "max_length": length}
    given = dims("self", **size, row_stride=heads * head_dim, dtype=DTYPES[dtype][0], append=0, scale=1.0)
    for layer in range(sum(name.startswith("self_key_") for name in decoder.caches)):
        new = [np.ascontiguousarray(found[f"new_{what}_{layer}"]) for what in ("key", "value")]
        caches = [decoder.caches[f"self_{what}_{layer}"] for what in ("key", "value")]
        kernels.run("florence_kv_append", given, *new, *caches, decoder.position, decoder.image_done)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("beams", "new_tokens"), [(1, 9), (3, 11), (3, 9)])
def test_the_kernels_drive_the_lowered_decoder(
    twin: Kernels, tmp_path: Any, precision: Precision, beams: int, new_tokens: int
) -> None:
    """9 new tokens: the search's rows have room for the 12 positions of the cache, which the engine reads."""
    bundle = Bundle.open("tabletop")
    model = LoweredModel(lower(bundle, tmp_path, precision=precision))
    cases = draw_cases(bundle.manifest.image, Tokens.load(bundle.tokenizer), bundle.manifest.limits, CaseOptions())
    cross = model.cross(model.features(cases.pixels)[list(cases.image_of)], cases.prompts)
    config = bundle.manifest.search.over(SearchOptions(beams=beams, max_new_tokens=new_tokens))
    expected = model.generate(cross, config)

    options = options_of(config, int(bundle.manifest.graphs.decoder.outputs[0].shape[-1]))
    decoder = LoweredDecoder(model, cross, beams=beams, capacity=options.max_length)
    search = Search(twin, options, batch=len(cases.prompts), capacity=decoder.indirection.shape[2])
    while search.images_left():
        decoder.position, decoder.image_done = search.get("position"), search.get("image_done")
        decoder.indirection = search.get("indirection")
        found = model.run("decoder", decoder.inputs(search.get("next_tokens")))
        append(twin, decoder, found, precision)
        search.step(found["logits"])
    for image, wanted in enumerate(expected):
        best = search.best(image)
        np.testing.assert_array_equal(best.tokens[1:], wanted.ids)
        assert best.score == pytest.approx(wanted.score, abs=1e-4)
