"""verl's vLLM server, which here generates all n answers to a prompt in one request.

One request for a whole group keeps its prefix and its image in one replica's cache, and crosses between
processes once instead of n times. The image is opened here, by its path.
"""

import asyncio
from typing import Any
from uuid import uuid4

from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from segzero.policy.checkpoint import Checkpoint
from segzero.training.tokenization import GeneratedAnswer, open_fitted

from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, VLLM_LORA_NAME, VLLM_LORA_PATH  # isort: skip
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica  # isort: skip

# Ids and log-probs of the sampled tokens. Their text is made once, by `tokenization.Encoder`, and not token by token.
NUMBERS_ALONE = {"logprobs": 0, "flat_logprobs": True, "detokenize": False}


class GroupServer(vLLMHttpServer):
    """verl's server with a request for a whole group of answers, and a health check."""

    async def generate_group(
        self, ids: list[int], image: str, checkpoint: Checkpoint, count: int, sampling: dict[str, Any]
    ) -> list[GeneratedAnswer]:
        """Generate `count` answers to a prompt whose image is still a single placeholder."""
        picture = await asyncio.to_thread(open_fitted, image, checkpoint)
        prompt = TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": [picture]})
        # In a thread too: patches of one image are made while tokens of other groups arrive here.
        [request] = await self.engine.renderer.render_cmpl_async([prompt])
        params = SamplingParams(n=count, output_kind=RequestOutputKind.FINAL_ONLY, **NUMBERS_ALONE, **sampling)
        adapter = await self._adapter()
        finals = [final async for final in self.engine.generate(request, params, uuid4().hex, lora_request=adapter)]
        outputs = finals[-1].outputs
        assert len(outputs) == count, "the engine returned fewer answers than requested"
        return [self._answer(output) for output in sorted(outputs, key=lambda output: output.index)]

    async def check_engine(self) -> None:
        """Raise if the engine is dead: this process may outlive the engine's."""
        await self.engine.check_health()

    async def _adapter(self) -> LoRARequest | None:
        """The adapter that the trainer synchronizes, once it has."""
        if not self.lora_as_adapter or VLLM_LORA_INT_ID not in await self.engine.list_loras():
            return None
        return LoRARequest(lora_name=VLLM_LORA_NAME, lora_int_id=VLLM_LORA_INT_ID, lora_path=VLLM_LORA_PATH)

    def _answer(self, output: Any) -> GeneratedAnswer:
        ids = list(output.token_ids)
        log_probs = list(output.logprobs.logprobs)  # flat: of the sampled tokens and no others
        assert len(log_probs) == len(ids), "the engine returned log-probs of other tokens"
        return GeneratedAnswer(ids, log_probs, output.finish_reason == "length", self.global_steps)


class GroupReplica(vLLMReplica):
    """verl's replica, with our server in it."""

    def __init__(self, *args: Any, **options: Any) -> None:
        import ray

        super().__init__(*args, **options)
        self.server_class = ray.remote(GroupServer)
