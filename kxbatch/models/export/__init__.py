"""Trained text encoders for use without kxbatch: one module a format, and a check that all of them give the same numbers."""

from __future__ import annotations

FORMATS = ("hf", "onnx", "safetensors")
STORAGES = ("fp32", "bf16", "fp16")  # of weights on the disk; nothing computes in fp16 here
