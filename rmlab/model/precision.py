"""Which precision trains fastest here: the value behind `${fast_precision:...}` in conf/model.

bf16-mixed keeps fp32 weights and multiplies matrices in bf16. That is faster only where the hardware has bf16 products:
GPUs from Ampere on, CPUs with AVX512-BF16 or AMX; elsewhere it is emulated and slower than fp32.

Left out: Apple's GPUs and ARM's BFMMLA, which nobody here could measure; they get fp32.
"""

from __future__ import annotations

import torch


def device_of(accelerator: str) -> str:
    """Returns where Lightning's `accelerator` (auto, cpu, gpu, cuda, mps) trains on this machine: cuda, mps or cpu."""
    if accelerator in ("auto", "gpu"):
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return accelerator


def has_bf16_products(device: str) -> bool:
    """Returns whether a kind of device of this machine multiplies bf16 matrices in hardware."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


def fast_precision(accelerator: str) -> str:
    """Returns bf16-mixed where this machine is faster with it, else 32-true."""
    return "bf16-mixed" if has_bf16_products(device_of(accelerator)) else "32-true"
