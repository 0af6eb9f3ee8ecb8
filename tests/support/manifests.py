"""A small but complete bundle whose graph files are only bytes: all that opening and checking one needs."""

from __future__ import annotations

from pathlib import Path

from florence_edge.bundle import Bundle, seal, staging
from florence_edge.manifest import (
    Graph,
    Graphs,
    Limits,
    Manifest,
    Parity,
    Producer,
    Source,
    Target,
    Tensor,
    TokenizerInfo,
)
from florence_edge.options import SearchConfig
from florence_edge.preprocess import ImageSpec
from florence_edge.vocabulary import Vocabulary

FILES = ("vision.onnx", "encoder.onnx", "decoder.onnx", "weights.bin", "tokenizer.json")


def manifest() -> Manifest:
    """A manifest with every optional part filled in and no files yet."""
    features, ids = Tensor("features", "float32", ("B", 5, 8)), Vocabulary(first=300, bos=0, pad=1, eos=2)
    logits = Tensor("logits", "float32", ("B", "K", ids.size))
    return Manifest(
        producer=Producer("florence-edge", "0.1.0", "3.10.12", torch="2.13.0", onnx="1.23.2"),
        source=Source("Florence-2-base", "microsoft", "0" * 64, licence="mit"),
        precision="fp32",
        model={"text": {"dim": 8}},
        image=ImageSpec(height=64, width=48),
        tokenizer=TokenizerInfo.of("tokenizer.json", ids),
        limits=Limits(prompt_tokens=100, new_tokens=127),
        search=SearchConfig(max_new_tokens=127),
        graphs=Graphs(
            Graph("vision.onnx", (Tensor("pixels", "float32", ("B", 3, 64, 48)),), (features,)),
            Graph("encoder.onnx", (features,), (Tensor("cross_mask", "bool", ("B", "S")),)),
            Graph("decoder.onnx", (Tensor("position", "int64", ()),), (logits,)),
        ),
        target=Target("10.3.0", "Orin", 87, 1),
        parity=Parity("torch", 0, 8, 24, {"vision": 1e-6}, {"vision": 1e-4}, {"greedy": 8}),
    )


def write_bundle(out: Path, *, overwrite: bool = False) -> Bundle:
    """Writes that manifest with a file of a few bytes for each name in `FILES`."""
    with staging(out, overwrite=overwrite) as folder:
        for name in FILES:
            (folder / name).write_bytes(f"content of {name}".encode())
        seal(folder, manifest())
    return Bundle.open(out)
