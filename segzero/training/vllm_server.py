"""verl's vLLM server, which here generates all n answers to a prompt in one request.

One request for a whole group keeps its prefix and its image in one replica's cache, and crosses between
processes once instead of n times. The image is opened here, by its path.
"""

import asyncio
import sys
from typing import Any, ClassVar
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from segzero.policy.checkpoint import Checkpoint
from segzero.training.collector import collect_as_usual
from segzero.training.tokenization import GeneratedAnswer, Picture, open_picture
from segzero.training.verl_glue.patches import fork_engine

from verl.plugin.platform import get_platform  # isort: skip
from verl.utils.device import get_device_name  # isort: skip
from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, VLLM_LORA_NAME, VLLM_LORA_PATH  # isort: skip
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica  # isort: skip

# Ids and log-probs of the sampled tokens. Their text is made once, by `tokenization.Encoder`, and not token by token.
NUMBERS_ALONE = {"logprobs": 0, "flat_logprobs": True, "detokenize": False}


class GroupServer(vLLMHttpServer):
    """verl's server with a request for a whole group of answers, and a health check."""

    def __init__(self) -> None:
        """Do no more than import vLLM, which making this actor means."""
        self._begun = asyncio.Event()

    async def begin(self, **arguments: Any) -> None:
        """Do what verl's constructor does."""
        collect_as_usual()
        if get_device_name() == "cpu" and sys.platform == "linux":
            fork_engine()
        try:
            super().__init__(**arguments)
        finally:
            self._begun.set()

    async def get_master_address(self) -> tuple:
        """verl's first question to a server."""
        await self._begun.wait()
        return super().get_master_address()

    async def generate_group(
        self, ids: list[int], picture: Picture, checkpoint: Checkpoint, count: int, sampling: dict[str, Any]
    ) -> list[GeneratedAnswer]:
        """Generate `count` answers to a prompt whose image is still a single placeholder."""
        image = await asyncio.to_thread(open_picture, picture, checkpoint)
        prompt = TokensPrompt(prompt_token_ids=ids, multi_modal_data={"image": [image]})
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
    """verl's replica, with our server in it.

    On one machine the server's process is started before the trainers are, because importing vLLM takes it as long as
    it takes them to start. Its GPUs are those of the trainers, so that verl's constructor, and the engine, come later.
    """

    waiting: ClassVar[dict[str, Any]] = {}  # servers without a task yet, by the actor's name

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.server_class = StartedServers(self.waiting)

    def start_early(self) -> None:
        """Start this replica's server on this node, for `launch_servers` to use."""
        assert self.nnodes == 1
        name = f"{self._get_server_name_prefix()}server_{self.replica_rank}_0{self.name_suffix}"
        environment = dict.fromkeys(get_platform().ray_noset_envvars(), "1") | get_platform().rollout_env_vars()
        here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
        self.waiting[name] = new_server(
            name=name,
            scheduling_strategy=here,
            runtime_env={"env_vars": environment},
            max_concurrency=self.max_concurrency,
        )

    async def launch_servers(self) -> None:
        """Launch verl's servers; a failure of the constructor is raised, not what follows from it."""
        try:
            await super().launch_servers()
        finally:
            await asyncio.gather(*self.server_class.begun)


class StartedServers:
    """Stand-in for Ray's class of servers, which verl's `launch_servers` calls as `.options(...).remote(...)`."""

    def __init__(self, waiting: dict[str, Any]) -> None:
        self.waiting = waiting
        self.begun: list[Any] = []  # a promise for each server

    def options(self, **options: Any) -> "StartedServers":
        """Take note of the options of the next server."""
        self._options = options
        return self

    def remote(self, **arguments: Any) -> Any:
        """The server of these options: the one that waits, or else a new one."""
        server = self.waiting.pop(self._options["name"], None) or new_server(**self._options)
        self.begun.append(server.begin.remote(**arguments))
        return server


def new_server(**options: Any) -> Any:
    """Start a server's process, without a task yet."""
    return ray.remote(GroupServer).options(**options).remote()
