"""What each plugin computes, as ONNX functions of standard operators, and the contract of its node.

The bodies are in ONNX's own text form. Each serves fp32, fp16 and bf16: like the kernels (`florence_kernels.h`) it
computes in fp32 and rounds the result to the type of its first input. Shapes are read from the inputs, so that a body
holds for every size the plugin takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir
from onnx import parser

DOMAIN = "florence"
"""Domain of the nodes and functions. TensorRT looks a plugin up by the node's name alone."""

_VERSION = {"plugin_version": "1", "plugin_namespace": ""}


@dataclass(frozen=True)
class Plugin:
    """A plugin's node: inputs in order, attributes with their ONNX type, and the body of its function."""

    name: str
    inputs: tuple[str, ...]
    body: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    output: str = "context"

    def function(self, opset: int) -> ir.Function:
        """The function, for a model of this opset."""
        attributes = f"<{', '.join(self.attributes)}>" if self.attributes else ""
        text = (
            f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n'
            f"{self.name} {attributes} ({', '.join(self.inputs)}) => ({self.output})\n{{{self.body}}}"
        )
        return ir.serde.deserialize_function(parser.parse_function(text))

    def node(
        self, inputs: Mapping[str, ir.Value], attributes: Mapping[str, int | float], *, name: str, shape: ir.Shape
    ) -> ir.Node:
        """A node with the attributes by which TensorRT's parser finds the plugin; the output has q's or qkv's type."""
        assert inputs.keys() == set(self.inputs), self.name
        assert attributes.keys() == self.attributes.keys(), self.name
        values = [inputs[port] for port in self.inputs]
        node = ir.node(self.name, values, {**attributes, **_VERSION}, domain=DOMAIN, name=name)
        node.outputs[0].shape, node.outputs[0].type = shape, values[0].type
        return node


WINDOW = Plugin(
    "FlorenceWindowAttention",
    ("qkv", "bias"),
    attributes={"window": "int"},
    body="""
    # Tokens beyond the map, at the bottom and at the right, are rows of the bias.
    size = Shape (qkv)
    batch, height, width, fused = Split <axis = 0, num_outputs = 4> (size)
    side = Constant <value_int: int = @window> ()
    none = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    three = Constant <value_ints = [3]> ()
    any = Constant <value_ints = [-1]> ()
    head_dim = Constant <value_ints = [32]> ()
    edge = Mul (side, one)
    least = Sub (edge, one)
    tall = Add (height, least)
    rows = Div (tall, edge)
    wide = Add (width, least)
    columns = Div (wide, edge)
    full_height = Mul (rows, edge)
    full_width = Mul (columns, edge)
    bottom = Sub (full_height, height)
    right = Sub (full_width, width)
    map = Cast <to = 1> (qkv)
    outside = Cast <to = 1> (bias)
    below_shape = Concat <axis = 0> (batch, bottom, width, fused)
    below = Expand (outside, below_shape)
    extended = Concat <axis = 1> (map, below)
    beside_shape = Concat <axis = 0> (batch, full_height, right, fused)
    beside = Expand (outside, beside_shape)
    grid = Concat <axis = 2> (extended, beside)

    channels = Div (fused, three)
    heads = Div (channels, head_dim)
    tokens = Mul (edge, edge)
    tiled_shape = Concat <axis = 0> (batch, rows, edge, columns, edge, three, heads, head_dim)
    tiled = Reshape (grid, tiled_shape)
    sorted = Transpose <perm = [5, 0, 1, 3, 6, 2, 4, 7]> (tiled)
    windows_shape = Concat <axis = 0> (three, any, heads, tokens, head_dim)
    windows = Reshape (sorted, windows_shape)
    query, key, value = Split <axis = 0, num_outputs = 3> (windows)
    scale = Constant <value_float = 0.17677669529663687> ()
    scaled = Mul (query, scale)
    turned = Transpose <perm = [0, 1, 2, 4, 3]> (key)
    scores = MatMul (scaled, turned)
    weights = Softmax <axis = -1> (scores)
    mixed = MatMul (weights, value)
    apart_shape = Concat <axis = 0> (batch, rows, columns, heads, edge, edge, head_dim)
    apart = Reshape (mixed, apart_shape)
    joined = Transpose <perm = [0, 1, 4, 2, 5, 3, 6]> (apart)
    whole_shape = Concat <axis = 0> (batch, full_height, full_width, channels)
    whole = Reshape (joined, whole_shape)
    first = Concat <axis = 0> (none, none)
    last = Concat <axis = 0> (height, width)
    axes = Constant <value_ints = [1, 2]> ()
    inside = Slice (whole, first, last, axes)
    context = CastLike (inside, qkv)
""",
)

CHANNEL = Plugin(
    "FlorenceChannelAttention",
    ("qkv",),
    body="""
    size = Shape (qkv)
    batch, tokens, fused = Split <axis = 0, num_outputs = 3> (size)
    three = Constant <value_ints = [3]> ()
    any = Constant <value_ints = [-1]> ()
    head_dim = Constant <value_ints = [32]> ()
    exact = Cast <to = 1> (qkv)
    parts_shape = Concat <axis = 0> (batch, tokens, three, any, head_dim)
    parts = Reshape (exact, parts_shape)
    sorted = Transpose <perm = [2, 0, 3, 4, 1]> (parts)
    query, key, value = Split <axis = 0, num_outputs = 3> (sorted)
    # The scale comes before the product, whose sum runs over all tokens of the image.
    count = Cast <to = 1> (tokens)
    root = Sqrt (count)
    scaled = Div (query, root)
    turned = Transpose <perm = [0, 1, 2, 4, 3]> (key)
    scores = MatMul (scaled, turned)
    weights = Softmax <axis = -1> (scores)
    mixed = MatMul (weights, value)
    joined = Transpose <perm = [0, 1, 4, 2, 3]> (mixed)
    whole_shape = Concat <axis = 0> (batch, tokens, any)
    whole = Reshape (joined, whole_shape)
    context = CastLike (whole, qkv)
""",
)

SELF = Plugin(
    "FlorenceDecoderSelfAttention",
    ("q", "k", "v", "k_cache", "v_cache", "indirection", "position", "image_done"),
    attributes={"scale": "float"},
    body="""
    size = Shape (k_cache)
    batch, beams, heads, length, head_dim = Split <axis = 0, num_outputs = 5> (size)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    first_axis = Constant <value_ints = [0]> ()
    any = Constant <value_ints = [-1]> ()

    # Four slots to an int32, the lowest byte first; numbers from `beams` on mean the last slot.
    words = Cast <to = 7> (indirection)
    range = Constant <value_int = 4294967296> ()
    unsigned = Mod (words, range)
    word = Unsqueeze (unsigned, any)
    weights_of_bytes = Constant <value_ints = [1, 256, 65536, 16777216]> ()
    shifted = Div (word, weights_of_bytes)
    byte = Constant <value_int = 256> ()
    bytes = Mod (shifted, byte)
    slots_shape = Concat <axis = 0> (batch, beams, length)
    stored = Reshape (bytes, slots_shape)
    last_slot = Sub (beams, one)
    slots = Min (stored, last_slot)

    # Row of every entry of a history in the cache seen as [batch * beams * length, heads * head_dim].
    batches = Squeeze (batch, first_axis)
    images = Range (zero, batches, one)
    two_last = Constant <value_ints = [1, 2]> ()
    image = Unsqueeze (images, two_last)
    image_first = Mul (image, beams)
    slot = Add (image_first, slots)
    slot_first = Mul (slot, length)
    lengths = Squeeze (length, first_axis)
    times = Range (zero, lengths, one)
    row = Add (slot_first, times)
    cache_shape = Concat <axis = 0> (any, heads, head_dim)
    keys_by_time = Transpose <perm = [0, 1, 3, 2, 4]> (k_cache)
    values_by_time = Transpose <perm = [0, 1, 3, 2, 4]> (v_cache)
    key_rows = Reshape (keys_by_time, cache_shape)
    value_rows = Reshape (values_by_time, cache_shape)
    past_keys_stored = Gather <axis = 0> (key_rows, row)
    past_values_stored = Gather <axis = 0> (value_rows, row)
    past_keys = Cast <to = 1> (past_keys_stored)
    past_values_read = Cast <to = 1> (past_values_stored)

    # Entries from `position` on are no part of any history, whatever memory holds there.
    now = Cast <to = 7> (position)
    seen = Less (times, now)
    last_axis = Constant <value_ints = [1]> ()
    seen_score = Unsqueeze (seen, last_axis)
    seen_entry = Unsqueeze (seen, two_last)
    nothing = Constant <value_float = 0.0> ()
    past_values = Where (seen_entry, past_values_read, nothing)

    one_query_shape = Concat <axis = 0> (batch, beams, heads, any)
    query_exact = Cast <to = 1> (q)
    own_key_exact = Cast <to = 1> (k)
    own_value_exact = Cast <to = 1> (v)
    factor = Constant <value_float: float = @scale> ()
    query_scaled = Mul (query_exact, factor)
    query = Reshape (query_scaled, one_query_shape)
    own_key = Reshape (own_key_exact, one_query_shape)
    own_value = Reshape (own_value_exact, one_query_shape)
    second = Constant <value_ints = [2]> ()
    query_at = Unsqueeze (query, second)
    products = Mul (query_at, past_keys)
    past_scores = ReduceSum <keepdims = 0> (products, any)
    lowest = Constant <value_float = -3.4e38> ()
    seen_scores = Where (seen_score, past_scores, lowest)
    own_products = Mul (query, own_key)
    own_scores = ReduceSum <keepdims = 0> (own_products, any)
    own_at = Unsqueeze (own_scores, second)
    scores = Concat <axis = 2> (seen_scores, own_at)
    weights = Softmax <axis = 2> (scores)
    weight = Unsqueeze (weights, any)
    own_value_at = Unsqueeze (own_value, second)
    values = Concat <axis = 2> (past_values, own_value_at)
    weighted = Mul (weight, values)
    mixed = ReduceSum <keepdims = 0> (weighted, second)

    # The kernel leaves rows of finished images alone; here they are zero.
    done_number = Cast <to = 7> (image_done)
    searching = Equal (done_number, zero)
    last_axes = Constant <value_ints = [1, 2, 3]> ()
    searching_at = Unsqueeze (searching, last_axes)
    kept = Where (searching_at, mixed, nothing)
    rows_shape = Concat <axis = 0> (any, heads, head_dim)
    flat = Reshape (kept, rows_shape)
    context = CastLike (flat, q)
""",
)

CROSS = Plugin(
    "FlorenceDecoderCrossAttention",
    ("q", "k", "v", "lengths", "image_done"),
    attributes={"scale": "float"},
    body="""
    size = Shape (k)
    batch, heads, source, head_dim = Split <axis = 0, num_outputs = 4> (size)
    zero = Constant <value_int = 0> ()
    one = Constant <value_int = 1> ()
    first_axis = Constant <value_ints = [0]> ()
    any = Constant <value_ints = [-1]> ()
    by_image_shape = Concat <axis = 0> (batch, any, heads, head_dim)
    query_exact = Cast <to = 1> (q)
    factor = Constant <value_float: float = @scale> ()
    query_scaled = Mul (query_exact, factor)
    query_rows = Reshape (query_scaled, by_image_shape)
    query = Transpose <perm = [0, 2, 1, 3]> (query_rows)
    key = Cast <to = 1> (k)
    value = Cast <to = 1> (v)
    turned = Transpose <perm = [0, 1, 3, 2]> (key)
    scores_all = MatMul (query, turned)
    sources = Squeeze (source, first_axis)
    places = Range (zero, sources, one)
    lengths_whole = Cast <to = 7> (lengths)
    last_axes = Constant <value_ints = [1, 2, 3]> ()
    length = Unsqueeze (lengths_whole, last_axes)
    seen = Less (places, length)
    lowest = Constant <value_float = -3.4e38> ()
    scores = Where (seen, scores_all, lowest)
    weights_all = Softmax <axis = -1> (scores)
    nothing = Constant <value_float = 0.0> ()
    weights = Where (seen, weights_all, nothing)
    mixed = MatMul (weights, value)

    # The kernel leaves rows of finished images alone; here they are zero.
    done_number = Cast <to = 7> (image_done)
    searching = Equal (done_number, zero)
    searching_at = Unsqueeze (searching, last_axes)
    kept = Where (searching_at, mixed, nothing)
    by_beam = Transpose <perm = [0, 2, 1, 3]> (kept)
    rows_shape = Concat <axis = 0> (any, heads, head_dim)
    flat = Reshape (by_beam, rows_shape)
    context = CastLike (flat, q)
""",
)

PLUGINS: Mapping[str, Plugin] = {plugin.name: plugin for plugin in (WINDOW, CHANNEL, SELF, CROSS)}
