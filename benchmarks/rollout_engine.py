"""CPU time of vLLM's processes for the answers of a training step, 16 prompts x 8, with the shipped policy.

    python -m benchmarks.rollout_engine [--batches 8] [--blocks 128,32] [--texts]

`server` is the process that takes requests (in training the replica's actor), `engine` the one that computes; `model`,
`sampling` and `scheduling` are parts of the latter. Each setting has an engine of its own; medians, without the first
two batches. `--texts` lets vLLM make the text of each token as well, as it did for training at first.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

SETTINGS = {  # those of segzero.training.launch on a CPU
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VERL_PLATFORM": "cpu",
    "VERL_USE_EXTERNAL_MODULES": "segzero.training.verl_glue.plugin",
    "VERL_REPLICA_RANK": "0",
    "PYTHONWARNINGS": "ignore",
}
PROMPTS, ANSWERS, DROPPED = 16, 8, 2


class Meter:
    """Methods that vLLM's worker gets: CPU seconds of the parts of a step."""

    def meter(self) -> dict[str, float]:
        """The sums since the first call, which starts the clocks."""
        seconds: dict[str, float] = self.__dict__.setdefault("_seconds", {})
        if not seconds:
            frame = sys._getframe()
            while not hasattr(frame.f_locals.get("self"), "step_fn"):  # the engine, which called this
                frame = frame.f_back  # type: ignore[assignment]
            scheduler, runner = frame.f_locals["self"].scheduler, self.model_runner  # type: ignore[attr-defined]
            for owner, name, part in [
                (runner, "execute_model", "model"),
                (runner, "sample_tokens", "sampling"),
                (scheduler, "schedule", "scheduling"),
                (scheduler, "update_from_output", "scheduling"),
            ]:
                _clock(owner, name, part, seconds)
        return dict(seconds)


def _clock(owner: Any, name: str, part: str, seconds: dict[str, float]) -> None:
    original = getattr(owner, name)
    seconds.setdefault(part, 0.0)

    def timed(*args: Any, **options: Any) -> Any:
        begin = time.thread_time()
        try:
            return original(*args, **options)
        finally:
            seconds[part] += time.thread_time() - begin

    setattr(owner, name, timed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--blocks", default="128,32", help="tokens of a cache block, one or more")
    parser.add_argument("--texts", action="store_true")
    args = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for block in map(int, args.blocks.split(",")):
        rows = asyncio.run(measure(args.batches, block, args.texts))[DROPPED:]
        shown = "  ".join(f"{part} {statistics.median(row[part] for row in rows):.2f}" for part in rows[0])
        print(f"blocks of {block}: {shown}", flush=True)


async def measure(batches: int, block: int, texts: bool) -> list[dict[str, float]]:
    import psutil
    import verl  # noqa: F401, applies the plugin's patches
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from segzero import shipped
    from segzero.policy.checkpoint import read_checkpoint
    from segzero.tiny.questions import make_samples
    from segzero.training.tokenization import Encoder, load_processor

    path = str(shipped.policy_path())
    checkpoint = read_checkpoint(path)
    encoder = Encoder(checkpoint, load_processor(path))
    limits = {"size": {"shortest_edge": checkpoint.min_pixels, "longest_edge": checkpoint.frame.most_pixels}}
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(
            path,
            dtype="float32",
            distributed_executor_backend="uni",
            worker_extension_cls="benchmarks.rollout_engine.Meter",
            max_model_len=512,
            max_num_seqs=PROMPTS * ANSWERS,
            max_num_batched_tokens=4096,
            logprobs_mode="processed_logprobs",
            enforce_eager=True,
            gpu_memory_utilization=0.1,
            disable_log_stats=True,
            limit_mm_per_prompt={"image": 1},
            skip_mm_profiling=True,
            mm_processor_kwargs=limits,
            block_size=block,
        )
    )
    server = psutil.Process()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        samples = []
        for number, sample in enumerate(make_samples(PROMPTS * batches, 7_000)):
            file = Path(folder) / f"{number}.png"
            file.write_bytes(sample.image)
            samples.append(replace(sample, image=str(file)))
        for start in range(0, len(samples), PROMPTS):
            [before] = await engine.collective_rpc("meter")
            cpu, began = _cpu(server), time.perf_counter()
            groups = [generate(engine, encoder, sample, texts) for sample in samples[start : start + PROMPTS]]
            tokens = sum(await asyncio.gather(*groups))
            wall, after = time.perf_counter() - began, _cpu(server)
            [seconds] = await engine.collective_rpc("meter")
            parts = {part: seconds[part] - before[part] for part in seconds}
            processes = {name: after[name] - cpu[name] for name in cpu}
            rows.append({"wall": wall} | processes | parts | {"tokens": float(tokens)})
    engine.shutdown()
    return rows


def _cpu(server: Any) -> dict[str, float]:
    """CPU seconds so far of both processes."""
    return {
        "server": sum(server.cpu_times()[:2]),
        "engine": sum(sum(child.cpu_times()[:2]) for child in server.children(recursive=True)),
    }


async def generate(engine: Any, encoder: Any, sample: Any, texts: bool) -> int:
    """Generate a group as `segzero.training.vllm_server` does; returns the number of its tokens."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    from segzero.training.tokenization import open_fitted
    from segzero.training.vllm_server import NUMBERS_ALONE

    picture = await asyncio.to_thread(open_fitted, sample.image, encoder.checkpoint)
    prompt = TokensPrompt(prompt_token_ids=encoder.encode(sample).unexpanded, multi_modal_data={"image": [picture]})
    [request] = await engine.renderer.render_cmpl_async([prompt])
    options: dict[str, Any] = {"logprobs": 0} if texts else NUMBERS_ALONE
    params = SamplingParams(n=ANSWERS, output_kind=RequestOutputKind.FINAL_ONLY, max_tokens=128, **options)
    finals = [final async for final in engine.generate(request, params, sample.id)]
    return sum(len(output.token_ids) for output in finals[-1].outputs)


if __name__ == "__main__":
    main()
