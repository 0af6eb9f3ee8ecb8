"""`florence-edge info`: what a bundle says about itself."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from florence_edge.bundle import Bundle
from florence_edge.card import facts
from florence_edge.units import size

from .options import A_BUNDLE, MODEL, add_json
from .output import print_json, table

if TYPE_CHECKING:
    from .main import Subparsers

_SEARCH = ("beams", "no_repeat_ngram", "early_stopping", "length_penalty")
"""What is shown of the search settings."""


def register(subparsers: Subparsers) -> None:
    """Adds the command."""
    parser = subparsers.add_parser("info", help="show what a bundle holds", description="Shows what a bundle holds.")
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?", default=MODEL, help=f"{A_BUNDLE} [{MODEL}]")
    add_json(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Checks the bundle's files and prints its facts."""
    bundle = Bundle.open(arguments.bundle)
    known = facts(bundle)
    if arguments.json:
        print_json(known)
        return 0
    print(table(_rows(known)))
    loss = bundle.manifest.loss
    if loss is not None:
        print(f"\nloss: {loss.summary()}")
        if loss.metrics:
            print(table(loss.rows(), header=("metric", "reference", known["precision"], "lost"), right=[1, 2, 3]))
    return 0


def _rows(known: dict[str, Any]) -> list[tuple[str, str]]:
    source, producer, image = known["source"], known["producer"], known["image"]
    made_with = [f"{name} {producer[name]}" for name in ("python", "torch", "onnx") if producer[name]]
    return [
        ("bundle", known["bundle"]),
        ("identity", known["identity"]),
        ("format", f"{known['format']}, revision {known['revision']}"),
        ("source", f"{source['name']} ({source['layout']}), licence {source['licence'] or 'unknown'}"),
        ("made by", f"{producer['name']} {producer['version']} with {', '.join(made_with)}"),
        ("precision", known["precision"]),
        ("image", f"{image['width']} x {image['height']} pixels, after resizing"),
        ("limits", f"{known['limits']['prompt_tokens']} prompt tokens, {known['limits']['new_tokens']} new tokens"),
        (
            "search",
            ", ".join(f"{key} {known['search'][key]}" for key in _SEARCH),
        ),
        ("built for", _target(known["target"])),
        ("parity", _parity(known["parity"])),
        ("files", f"{len(known['files'])}, {size(known['bytes'])}, hashes checked"),
        *((f"  {name}", size(count)) for name, count in known["files"].items()),
    ]


def _target(target: dict[str, Any] | None) -> str:
    if target is None:
        return "any machine"
    return f"{target['gpu']} (sm_{target['sm']}), TensorRT {target['tensorrt']}, plugins {target['plugin_abi']}"


def _parity(parity: dict[str, Any] | None) -> str:
    if parity is None:
        return "not measured"
    errors = ", ".join(f"{graph} {error:.1e}" for graph, error in parity["max_abs_error"].items())
    same = ", ".join(f"{name} {count}/{parity['pairs']}" for name, count in parity["identical"].items())
    return f"against {parity['reference']}: identical ids {same}; largest errors {errors}"
