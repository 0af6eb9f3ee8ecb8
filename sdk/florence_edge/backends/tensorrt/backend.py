"""Runs a bundle of TensorRT engines: batches cut into the built sizes, answers read back. The loop is in `decoding`."""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from florence_edge.backends import Hypothesis, ImageFeatures
from florence_edge.backends.request import Bounds, Request, check_pixels, foreign, make_request
from florence_edge.bundle import Bundle
from florence_edge.errors import BackendError, InputError
from florence_edge.geometry import Float32Array, Int64Array
from florence_edge.options import SearchConfig, SearchOptions

from .device import Device, Memory
from .engines import Engines, chunks, fitting, open_engines, tensor_bytes
from .lanes import Lanes, OpenLane
from .plugins import PluginLibrary, find_plugins
from .searching import Search
from .stages import Lane
from .surface import Platform


class DeviceFeatures:
    """Encoded images [B, N, D] float32: on the device, where the decoder reads them, and as a host copy."""

    def __init__(self, owner: TensorRTBackend, values: Float32Array, addresses: Sequence[int]) -> None:
        self.owner, self.addresses, self._values = owner, tuple(addresses), values

    def __len__(self) -> int:
        return len(self._values)

    def numpy(self) -> Float32Array:
        """A copy, [B, N, D] float32."""
        copy: Float32Array = self._values.copy()
        return copy


class TensorRTBackend:
    """A bundle of engines on one GPU.

    Prompts run in the batches that the engines were built for; a prompt costs what the next longer built length costs.
    Calls from several threads are safe and take turns.
    """

    def __init__(
        self,
        bundle: Bundle,
        platform: Platform,
        *,
        device: int = 0,
        plugins: Callable[[str], PluginLibrary] = find_plugins,
    ) -> None:
        self._device = Device(platform.driver, device)
        with self._device.active():
            self._opened: Engines | None = open_engines(bundle, platform, self._device, plugins)
            self._memory = Memory(self._device)
        self._lanes = Lanes(lambda: Lane(self._engines, self._device, platform.kernels))
        self._spare: defaultdict[int, deque[int]] = defaultdict(deque)
        manifest = bundle.manifest
        self._pixels = manifest.graphs.vision.inputs[0].shape
        self._bounds = Bounds.of(manifest)

    def encode_image(self, pixels: Float32Array) -> DeviceFeatures:
        """Encodes images [B, 3, H, W] float32.

        Raises `InputError` for another dtype or shape, `BackendError` for features that are not finite.
        """
        check_pixels(pixels, self._pixels)
        values: list[Float32Array] = []
        blocks: list[tuple[int, int]] = []
        with self._lane() as lane:
            for count, batch in chunks(self._engines.vision.choices("B"), len(pixels)):
                start = sum(map(len, values))
                blocks.append((count, self._block(count)))
                values.append(lane.lane.vision(batch).run(pixels[start : start + count], blocks[-1][1]))
        row = values[0][0].nbytes
        addresses = [address + index * row for count, address in blocks for index in range(count)]
        features = DeviceFeatures(self, np.concatenate(values), addresses)
        weakref.finalize(features, _give_back, self._spare, blocks)
        if not np.isfinite(features.numpy()).all():
            raise BackendError("the vision engine gave non-finite features: the pixels or the weights are not finite")
        return features

    def generate(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None = None,
        image_of: Sequence[int] | None = None,
    ) -> list[Hypothesis]:
        """Answers prompts; see `Backend.generate`."""
        if not len(prompt_ids):
            return []
        request, source = self._request(features, prompt_ids, options, image_of)
        answers: list[Hypothesis] = []
        with self._lane() as lane:
            for count, batch in chunks(self._engines.decoder.choices("B"), len(prompt_ids)):
                rows = slice(len(answers), len(answers) + count)
                search = self._begin(lane, request, source, rows, batch)
                search.run()
                answers += [search.result.hypothesis(index) for index in range(count)]
        return answers

    def stream(
        self, features: ImageFeatures, prompt_ids: Int64Array, options: SearchOptions | None = None
    ) -> Generator[Int64Array, None, Hypothesis]:
        """Answers one prompt about one image piece by piece; see `StreamingBackend.stream`.

        The state is copied after every token, which `generate` does not do.
        """
        request, source = self._request(features, [prompt_ids], options, None)
        batch, told = self._engines.decoder.choices("B")[0], 0
        with self._reading() as lane:
            with self._device.active():
                search = self._begin(lane, request, source, slice(0, 1), batch)
                steps = search.steps()
            while True:
                self._lanes.check_open()
                # The device is current while it works, never while the reader has the word.
                with self._device.active():
                    length = next(steps, None)
                    certain = None if length is None else search.result.certain(0, length)
                if certain is None:
                    break
                if len(certain) > told:
                    yield certain[told:]
                    told = len(certain)
            answer = search.result.hypothesis(0)
        if len(answer.ids) > told:
            yield answer.ids[told:]
        return answer

    def close(self) -> None:
        """Frees what the backend holds on the device; later calls raise `BackendError`."""
        with self._device.active():
            if self._lanes.close():
                self._memory.free()
                self._opened = None

    @property
    def _engines(self) -> Engines:
        """The engines; `BackendError` after `close`, with which their weights leave the device."""
        if self._opened is None:
            self._lanes.check_open()
        assert self._opened is not None
        return self._opened

    def _block(self, count: int) -> int:
        """Device memory for the features of `count` images: a block that is free again, or a new one."""
        try:
            return self._spare[count].popleft()
        except IndexError:
            return self._memory.take(tensor_bytes(self._engines.vision.graph.outputs[0], {"B": count}))

    def _request(
        self,
        features: ImageFeatures,
        prompt_ids: Sequence[Int64Array],
        options: SearchOptions | None,
        image_of: Sequence[int] | None,
    ) -> tuple[Request, Sequence[int]]:
        """A checked call, and the device addresses of the features of each of its prompts."""
        request = make_request(self._bounds, len(features), prompt_ids, options, image_of)
        if not isinstance(features, DeviceFeatures) or features.owner is not self:
            raise foreign(features)
        self._check_search(request.config)
        return request, [features.addresses[row] for row in request.image_of]

    def _check_search(self, config: SearchConfig) -> None:
        """Raises `InputError` for a search that these engines cannot do."""
        decoder = self._engines.decoder
        if config.beams not in decoder.choices("K"):
            built = ", ".join(map(str, decoder.choices("K")))
            raise InputError(
                f"beams is {config.beams}, the engines were built for {built}; build others with --beams: "
                f"{decoder.command}"
            )
        fitting(decoder.choices("L"), config.max_new_tokens + 1, "positions (max_new_tokens + 1)", decoder.command)

    def _begin(self, lane: OpenLane, request: Request, source: Sequence[int], rows: slice, batch: int) -> Search:
        """Encodes some prompts of a call and starts their search."""
        lengths = request.prompt_mask[rows].sum(axis=1).astype(np.int32)
        encoder = self._engines.encoder
        prompt = fitting(encoder.choices("P"), int(lengths.max()), "prompt tokens", encoder.command)
        lane.lane.encoder(batch, prompt).enqueue(source[rows], request.prompt_ids[rows], lengths)
        return lane.decoder(batch, request.config.beams, prompt).begin(request.config)

    @contextmanager
    def _reading(self) -> Iterator[OpenLane]:
        """A lane for a stream; the device is current while the lane is taken only."""
        with ExitStack() as stack:
            with self._device.active():
                lane = stack.enter_context(self._lanes.take(reading=True))
            yield lane

    @contextmanager
    def _lane(self) -> Iterator[OpenLane]:
        """A lane for one call, with the device current."""
        with self._device.active(), self._lanes.take() as lane:
            yield lane


def _give_back(spare: defaultdict[int, deque[int]], blocks: Sequence[tuple[int, int]]) -> None:
    """Makes the memory of features that nobody holds any more free for others; runs on any thread."""
    for count, address in blocks:
        spare[count].append(address)
