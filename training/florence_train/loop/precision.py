"""The precision of a step's products: autocast, and for fp16 a scaler that keeps small gradients from vanishing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from florence_edge.errors import InputError
from florence_train.recipe import Precision

DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """The context of a forward pass; weights stay fp32."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def attention(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """The context of a step's attention, backward pass included.

    On CPUs torch's fused attention in half precision takes two to five times as long as its parts, which is a third of
    a step of a small model; in fp32 and on other devices it is the faster one.
    """
    if device.type != "cpu" or precision == "fp32":
        return nullcontext()
    parts: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return parts


def scaler(precision: Precision, device: torch.device) -> torch.amp.GradScaler:
    """The scaler of the loss; it does nothing but for fp16.

    It begins at 2^12, not at torch's 2^16: the dense loss is some ten times a token's, and every scale that overflows
    costs a step. It grows by itself where there is room.
    """
    return torch.amp.GradScaler(device.type, init_scale=2.0**12, enabled=precision == "fp16")


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raises `InputError` where the device does not compute in a precision."""
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name(device)
        raise InputError(f"compute.precision is 'bf16', which {name} does not have; use 'fp16' or 'fp32'")
