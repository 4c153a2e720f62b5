"""The rollout's side of a step: verl's vLLM server, asked once for all n answers to a prompt.

One request for a whole group keeps its prefix and its image in one replica's cache, and crosses between
processes once instead of n times. The image is opened here, by path.
"""

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from segzero.policy.checkpoint import Checkpoint
from segzero.training.tokenization import open_fitted

from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, VLLM_LORA_NAME, VLLM_LORA_PATH  # isort: skip
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica  # isort: skip


@dataclass(frozen=True)
class Written:
    """One answer as tokens."""

    ids: list[int]
    log_probs: list[float]
    truncated: bool  # the limit came before the end token
    weights: int | None  # the step whose weights wrote it


class GroupServer(vLLMHttpServer):
    """verl's server with one method more."""

    async def write_group(
        self, ids: list[int], image: str, checkpoint: Checkpoint, count: int, sampling: dict[str, Any]
    ) -> list[Written]:
        """`count` answers to a prompt whose image is still one placeholder."""
        picture = await asyncio.to_thread(open_fitted, image, checkpoint)
        prompt = TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": [picture]})
        params = SamplingParams(n=count, logprobs=0, output_kind=RequestOutputKind.FINAL_ONLY, **sampling)
        adapter = await self._adapter()
        answers = [a async for a in self.engine.generate(prompt, params, uuid4().hex, lora_request=adapter)]
        answer = answers[-1]
        assert len(answer.outputs) == count, "the engine answered with fewer than asked"
        return [self._written(output) for output in sorted(answer.outputs, key=lambda output: output.index)]

    async def answers(self) -> None:
        """Raises when the engine is dead, whose process this one may outlive."""
        await self.engine.check_health()

    async def _adapter(self) -> LoRARequest | None:
        """The adapter that the trainer synchronises, once it has."""
        if not self.lora_as_adapter or VLLM_LORA_INT_ID not in await self.engine.list_loras():
            return None
        return LoRARequest(lora_name=VLLM_LORA_NAME, lora_int_id=VLLM_LORA_INT_ID, lora_path=VLLM_LORA_PATH)

    def _written(self, output: Any) -> Written:
        ids = list(output.token_ids)
        chosen = [step[token].logprob for step, token in zip(output.logprobs, ids, strict=True)]
        return Written(ids, chosen, output.finish_reason == "length", self.global_steps)


class GroupReplica(vLLMReplica):
    """verl's replica, with our server in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        import ray

        super().__init__(*args, **options)
        self.server_class = ray.remote(GroupServer)
