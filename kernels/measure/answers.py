"""Whole answers and their stages: the torch backend with the kernels and without, and transformers in the same run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from florence_edge.backends.request import Bounds, Request, make_request
from florence_edge.geometry import Int64Array
from florence_edge.manifest import Limits
from florence_edge.options import SearchConfig
from florence_train.kernels.device import DeviceEngine
from florence_train.kernels.operations import KERNELS, TORCH
from florence_train.model import FlorenceModel

from .cases import PROMPT_TOKENS, Setting
from .timing import Ceilings, Clock

Answer = Callable[[], list[int]]


def random_model(setting: Setting) -> FlorenceModel:
    """In fp32 on the host. Random weights are as good as trained ones for speed."""
    torch.manual_seed(0)
    return FlorenceModel(setting.config).eval()


def random_inputs(setting: Setting) -> tuple[Tensor, Int64Array]:
    """Pixels [1, 3, H, W] float32 on the host, and one prompt."""
    rng, image = np.random.default_rng(0), setting.config.image
    pixels = rng.normal(size=(1, 3, image.height, image.width)).astype(np.float32)
    inner = rng.integers(3, setting.config.text.vocab_size - 1, size=PROMPT_TOKENS - 2)
    return torch.from_numpy(pixels), np.asarray([0, *inner, 2])


def request_for(setting: Setting, prompt: Int64Array) -> Request:
    """An answer of exactly `tokens` tokens to one prompt about one image."""
    text = setting.config.text
    settings = SearchConfig(beams=setting.beams, max_new_tokens=setting.tokens, min_new_tokens=setting.tokens)
    return make_request(
        Bounds(Limits(text.max_positions, setting.tokens), settings, text.vocab_size), 1, [prompt], None, None
    )


def stages(setting: Setting, engine: DeviceEngine, clock: Clock, best: Ceilings) -> dict[str, Any]:
    """Vision, prompt and decoder step, as a caller waits for them, and what the host did inside the token loop."""
    pixels, prompt = random_inputs(setting)
    pixels, request = pixels.to(setting.device, setting.dtype), request_for(setting, prompt)
    features = engine.encode_image(pixels)
    engine.generate(features, request)
    with torch.inference_mode():
        _, decoding = engine.decoding(features, request)
        vision = clock.called(lambda: engine.encode_image(pixels))
        begin = clock.called(lambda: decoding.begin(features, request))

        def whole() -> None:
            decoding.begin(features, request)
            decoding.run()

        both = clock.called(whole)
        decoding.begin(features, request)
        calls = runtime_calls(decoding.run, setting.device)
    step = (both.median - begin.median) / setting.tokens
    floor = best.floor_us(step_bytes(setting))
    return {
        "vision_us": asdict(vision),
        "prompt_us": asdict(begin),
        "step_us": step,
        "step_floor_us": floor,
        "step_over_floor": step / floor,
        "runtime_calls_in_token_loop": calls,
    }


def step_bytes(setting: Setting) -> int:
    """Weights that a decoder step reads once, the output embedding among them, and the source's keys and values."""
    text, image = setting.config.text, setting.config.image
    layer = 6 * text.dim**2 + 2 * text.dim * text.decoder_ffn
    source = 2 * text.dim * (setting.config.image_tokens(image.height, image.width) + PROMPT_TOKENS)
    return (text.decoder_layers * (layer + source) + text.vocab_size * text.dim) * setting.item


def runtime_calls(work: Callable[[], None], device: torch.device) -> dict[str, int]:
    """How often the host called each function of the CUDA runtime within `work`; empty on a CPU."""
    if device.type != "cuda":
        work()
        return {}
    torch.cuda.synchronize(device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, torch.profiler.record_function("token loop"):
        work()
    events = list(profile.events() or [])
    loop = next(event.time_range for event in events if event.name == "token loop")
    inside = [event.name for event in events if loop.start <= event.time_range.start <= loop.end]
    return dict(Counter(name for name in inside if name.startswith("cuda")))


def contenders(setting: Setting, model: FlorenceModel, folder: Path) -> dict[str, Callable[[], Answer]]:
    """What opens each contender; a rival that cannot run here raises when it is opened or asked."""
    static = {"cache_implementation": "static", "disable_compile": True}
    return {
        "florence-edge, kernels": partial(_ours, setting, DeviceEngine(model, KERNELS)),
        "florence-edge, torch": partial(_ours, setting, DeviceEngine(model, TORCH)),
        "transformers, eager SDPA": partial(_theirs, setting, folder, None, {}),
        "transformers, torch.compile": partial(_theirs, setting, folder, _compile, static),
    }


def _ours(setting: Setting, engine: DeviceEngine) -> Answer:
    pixels, prompt = random_inputs(setting)
    request = request_for(setting, prompt)

    def answer() -> list[int]:
        (found,) = engine.generate(engine.encode_image(pixels), request)
        ids: list[int] = found.ids.tolist()
        return ids

    return answer


def _theirs(setting: Setting, folder: Path, prepare: Callable[[Any], None] | None, extra: dict[str, Any]) -> Answer:
    from transformers import Florence2ForConditionalGeneration

    rival: Any = Florence2ForConditionalGeneration.from_pretrained(
        folder, dtype=setting.dtype, attn_implementation="sdpa"
    )
    rival = rival.eval().to(setting.device)
    if prepare is not None:
        prepare(rival)
    pixels, prompt = random_inputs(setting)
    image = setting.config.image
    placeholder = [rival.config.image_token_id] * setting.config.image_tokens(image.height, image.width)
    given = torch.tensor([[*placeholder, *prompt]], device=setting.device)
    settings = request_for(setting, prompt).config

    def answer() -> list[int]:
        with torch.inference_mode():
            made = rival.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                pixel_values=pixels.to(setting.device, setting.dtype),
                num_beams=settings.beams,
                max_new_tokens=settings.max_new_tokens,
                min_new_tokens=settings.min_new_tokens,
                no_repeat_ngram_size=settings.no_repeat_ngram,
                early_stopping=settings.early_stopping,
                do_sample=False,
                **extra,
            )
        ids: list[int] = made[0, 1:].tolist()
        return ids

    return answer


def _compile(rival: Any) -> None:
    """What takes nearly all of the time; the cache is static, so every shape of the decoder but the first is one."""
    rival.model.vision_tower.compile(dynamic=False)
    rival.model.language_model.decoder.compile(dynamic=False)
