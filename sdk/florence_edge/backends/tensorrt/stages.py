"""Engines at fixed sizes, their tensors bound once: pixels to features, features and prompts to the decoder's caches.

A lane is what one call needs to run alone: a stream, working memory that its contexts share because they run one after
the other, and buffers per size, made when a size is first used and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from florence_edge.geometry import Float32Array, Int32Array, Int64Array

from .device import Device, Memory
from .engines import Engines, Part, shape_of, tensor_bytes
from .recording import Recording
from .surface import CudaStream, Kernels

Scratch = tuple[int, int]
"""Address and size of the working memory of a context."""


class Lane:
    """Stream, memory and bound engines for one call at a time; the device must be active around every use."""

    def __init__(self, engines: Engines, device: Device, kernels: Kernels) -> None:
        self.engines, self.device, self.kernels = engines, device, kernels
        self.stream: CudaStream = device.stream()
        self.memory = Memory(device)
        self._scratch: Scratch = (self.memory.take(engines.scratch), engines.scratch)
        self._vision: dict[int, VisionStage] = {}
        self._encoders: dict[tuple[int, int], EncoderStage] = {}
        self._cross: dict[int, dict[str, int]] = {}

    def vision(self, batch: int) -> VisionStage:
        """The vision engine for a batch."""
        if batch not in self._vision:
            self._vision[batch] = VisionStage(self, batch)
        return self._vision[batch]

    def encoder(self, batch: int, prompt: int) -> EncoderStage:
        """The encoder for a batch of prompts padded to `prompt` tokens."""
        if (batch, prompt) not in self._encoders:
            self._encoders[batch, prompt] = EncoderStage(self, batch, prompt)
        return self._encoders[batch, prompt]

    def cross(self, batch: int) -> Mapping[str, int]:
        """Addresses of the cross-attention caches of a batch, and of its `lengths`; room for the longest prompt."""
        if batch not in self._cross:
            part = self.engines.encoder
            sizes = {"B": batch, "S": image_tokens(part) + part.choices("P")[-1]}
            addresses = {tensor.name: self.memory.take(tensor_bytes(tensor, sizes)) for tensor in part.graph.outputs}
            self._cross[batch] = {**addresses, "lengths": self.memory.take(4 * batch)}
        return self._cross[batch]

    def bind(self, part: Part, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> BoundEngine:
        """An engine at fixed sizes on this lane's stream, in its working memory."""
        return BoundEngine(part, sizes, addresses, scratch=self._scratch, stream=self.stream)

    def recording(self, what: str) -> Recording:
        """For work on this lane's stream that is done again and again."""
        return Recording(what, device=self.device, kernels=self.kernels, stream=self.stream)

    def close(self) -> None:
        """Waits for what runs and frees the memory."""
        self.stream.synchronize()
        stages: list[VisionStage | EncoderStage] = [*self._vision.values(), *self._encoders.values()]
        for stage in stages:
            stage.recording.close()
        self._vision.clear()
        self._encoders.clear()
        self.memory.free()


class BoundEngine:
    """A context at fixed sizes with every tensor bound."""

    def __init__(
        self,
        part: Part,
        sizes: Mapping[str, int],
        addresses: Mapping[str, int],
        *,
        scratch: Scratch,
        stream: CudaStream,
    ) -> None:
        self._handle, self._part = stream.handle, part
        self._context = part.context()
        self._context.set_device_memory(*scratch)
        try:
            self._bind(part, sizes, addresses)
        except RuntimeError as error:  # the bindings' own, where others of their calls return False
            raise part.refusal(str(error)) from error

    def _bind(self, part: Part, sizes: Mapping[str, int], addresses: Mapping[str, int]) -> None:
        """Fixes profile, shapes and addresses."""
        context, profile = self._context, part.profile(**sizes)
        self._require(context.set_optimization_profile_async(profile, self._handle), f"profile {profile}")
        for tensor in part.graph.inputs:
            shape = shape_of(tensor, sizes)
            self._require(context.set_input_shape(tensor.name, shape), f"{tensor.name} {list(shape)}")
        for tensor in (*part.graph.inputs, *part.graph.outputs):
            self._require(context.set_tensor_address(tensor.name, addresses[tensor.name]), f"memory of {tensor.name}")
        unknown = context.infer_shapes()
        self._require(not unknown, f"these sizes, without {', '.join(unknown)}")

    def enqueue(self) -> None:
        """Runs the engine on the lane's stream."""
        self._require(self._context.execute_async_v3(self._handle), "to run")

    def _require(self, done: bool, what: str) -> None:
        if not done:
            raise self._part.refusal(what)


class VisionStage:
    """Pixels to features for one batch size, with pinned memory on both ends."""

    def __init__(self, lane: Lane, batch: int) -> None:
        part = lane.engines.vision
        self._lane, sizes = lane, {"B": batch}
        (pixels,), (features,) = part.graph.inputs, part.graph.outputs
        self._pixels = lane.memory.pinned(shape_of(pixels, sizes), np.float32)
        self._features = lane.memory.pinned(shape_of(features, sizes), np.float32)
        self._addresses = {tensor.name: lane.memory.take(tensor_bytes(tensor, sizes)) for tensor in (pixels, features)}
        self._from, self._to = self._addresses[pixels.name], self._addresses[features.name]
        self._engine, self.recording = lane.bind(part, sizes, self._addresses), lane.recording(part.graph.file)

    def run(self, pixels: Float32Array, device: int) -> Float32Array:
        """Features [n, N, D] of pixels [n, 3, H, W], n at most the batch: a host copy, and one at the address `device`.

        Rows beyond n repeat the last image. Returns when both copies are there.
        """
        driver, stream, count = self._lane.device.driver, self._lane.stream, len(pixels)
        self._pixels[:count], self._pixels[count:] = pixels, pixels[-1]
        driver.memcpy_htod_async(self._from, self._pixels, stream)
        self.recording.run(self._engine.enqueue)
        driver.memcpy_dtod_async(device, self._to, self._features[:count].nbytes, stream)
        driver.memcpy_dtoh_async(self._features, self._to, stream)
        stream.synchronize()
        features: Float32Array = self._features[:count].copy()
        return features


class EncoderStage:
    """Features and prompts to cross-attention keys and values, for one batch size and one padded prompt length."""

    def __init__(self, lane: Lane, batch: int, prompt: int) -> None:
        part = lane.engines.encoder
        self._lane, self._image_tokens = lane, image_tokens(part)
        sizes = {"B": batch, "P": prompt, "S": self._image_tokens + prompt}
        tensors = {tensor.name: tensor for tensor in part.graph.inputs}
        self._row = tensor_bytes(tensors["features"], {**sizes, "B": 1})
        self._prompts = lane.memory.pinned((batch, prompt), np.int32)
        self._lengths = lane.memory.pinned((batch,), np.int32)
        cross = lane.cross(batch)
        own = {name: lane.memory.take(tensor_bytes(tensors[name], sizes)) for name in ("features", "prompt_ids")}
        self._addresses = {**cross, **own}
        self._engine, self.recording = lane.bind(part, sizes, self._addresses), lane.recording(part.graph.file)

    def enqueue(self, features: Sequence[int], prompt_ids: Int64Array, lengths: Int32Array) -> None:
        """Fills the lane's caches for this batch; pinned memory must be idle, as it is after every answer.

        `features` are the addresses of each row's image features [N, D]; `prompt_ids` [n, T] holds prompts of `lengths`
        [n]. Rows beyond n repeat the last.
        """
        driver, stream, count = self._lane.device.driver, self._lane.stream, len(features)
        width = min(prompt_ids.shape[1], self._prompts.shape[1])
        self._prompts[...] = 0
        self._prompts[:count, :width], self._prompts[count:] = prompt_ids[:, :width], self._prompts[count - 1]
        self._lengths[:count], self._lengths[count:] = lengths + self._image_tokens, lengths[-1] + self._image_tokens
        for row in range(len(self._lengths)):
            source = features[min(row, count - 1)]
            driver.memcpy_dtod_async(self._addresses["features"] + row * self._row, source, self._row, stream)
        driver.memcpy_htod_async(self._addresses["prompt_ids"], self._prompts, stream)
        driver.memcpy_htod_async(self._addresses["lengths"], self._lengths, stream)
        self.recording.run(self._engine.enqueue)


def image_tokens(encoder: Part) -> int:
    """Tokens N of an encoded image."""
    return int(next(tensor for tensor in encoder.graph.inputs if tensor.name == "features").shape[1])
