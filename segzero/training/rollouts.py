"""Rollouts of a prompt, from the sample to the trajectories that verl's trainer takes up.

This stands where verl has its agent loop manager: `generate_sequences` starts a batch and returns, and each
group of n answers appears in the TransferQueue as soon as it is written and scored. All n answers of a prompt
go to one replica (whose caches then hold its prefix and its image) in one request; the image is never opened
here, and the prompt is encoded once instead of three times for each answer.
"""

import asyncio
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict

from segzero.answer import Answer as ParsedAnswer
from segzero.answer import parse_answer
from segzero.dialogue.prompting import PolicyPrompt, sample_prompt
from segzero.errors import UserError
from segzero.sample import Sample
from segzero.training.own_history import prompt_after_own_answers, takes_own_history
from segzero.training.scorer import Scored, Scorer
from segzero.training.tokenization import Encoded, Encoder
from segzero.training.watchdog import Watch

TRAIN = "train"  # verl's name for the partition
AT_ONCE = 128  # samples a replica in validation; each waits there with its pixels, 17 MB at 840x840
PATIENCE = 0.5  # s between two looks at whether anything died


@dataclass(frozen=True, eq=False)
class Answer:
    """One answer of the policy and what it was worth."""

    text: str
    tokens: int
    truncated: bool
    scored: Scored


class History(StrEnum):
    """What a prompt tells of earlier rounds."""

    TRUE = "true"
    OWN = "own"  # as the policy itself answered them
    FALLBACK = "fallback"  # the true one, as after the policy's own answers the question can't be asked


@dataclass(frozen=True, eq=False)
class Group:
    """All answers to one prompt."""

    sample: Sample
    prompt: PolicyPrompt
    answers: tuple[Answer, ...]
    seconds: dict[str, float] = field(default_factory=dict)  # generate, reward
    history: History = History.TRUE

    @property
    def totals(self) -> list[float]:
        return [answer.scored.total for answer in self.answers]


class Rollouts:
    """Asks the replicas and the scorer from an event loop in a thread of its own."""

    def __init__(
        self,
        servers: Sequence[Any],
        samples: Sequence[Sample],
        encoder: Encoder,
        scorer: Scorer,
        rollout_config: Any,
        watch: Watch | None = None,
        own_history: float = 0.0,
    ) -> None:
        self.servers, self.samples, self.encoder, self.scorer = list(servers), samples, encoder, scorer
        self.config = rollout_config
        self.own_history = own_history  # share of later rounds asked after the policy's own answers
        self.watch = watch or Watch({})
        self.changed = threading.Event()  # a group was finished, or something broke
        self.failure: BaseException | None = None
        self._finished: list[Group] = []
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rollouts", daemon=True).start()

    # What verl's trainer calls

    def generate_sequences(self, batch: TensorDict) -> None:
        """Start n answers to each prompt of a batch from the training set."""
        step = int(batch["global_steps"])
        for uid, index in zip(batch["uid"], batch["index"], strict=True):
            self._start(self._train_group(str(uid), int(index), step))

    # What our own trainer calls

    def drain(self) -> list[Group]:
        """The groups finished since the last call."""
        self._finished, groups = [], self._finished
        return groups

    def check(self) -> None:
        """Raise what broke, if anything did."""
        if self.failure is not None:
            raise self.failure
        self.watch.check()

    def answer(self, samples: Sequence[Sample]) -> list[Group]:
        """One greedy answer to each sample, for validation."""
        room = asyncio.Semaphore(AT_ONCE * len(self.servers))

        async def one(sample: Sample) -> Group:
            async with room:
                group, _, _ = await self._group(sample, validating=True)
            return group

        async def run() -> list[Group]:
            return await asyncio.gather(*map(one, samples))

        work = asyncio.run_coroutine_threadsafe(run(), self._loop)
        try:
            while not futures.wait([work], timeout=PATIENCE).done:
                self.check()
        finally:
            work.cancel()  # nothing, once it is done
        return work.result()

    # The work

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        async def watched() -> None:
            try:
                await work
            except BaseException as error:  # the trainer's thread raises it
                self.failure = self.failure or error
            self.changed.set()

        asyncio.run_coroutine_threadsafe(watched(), self._loop)

    async def _train_group(self, uid: str, index: int, step: int) -> None:
        sample = self.samples[index]
        own = takes_own_history(sample.id, step, self.own_history)
        group, encoded, written = await self._group(sample, own=own)
        self._finished.append(group)  # before the trainer can take it up, and then ask for all that are finished
        await self._hand_over(uid, index, step, group, encoded, written)

    async def _group(
        self, sample: Sample, validating: bool = False, own: bool = False
    ) -> tuple[Group, Encoded, list[Any]]:
        begin = time.perf_counter()
        prompt, history = sample_prompt(sample, self.encoder.checkpoint.frame), History.TRUE
        encoded = self.encoder.encode(sample, prompt)
        if own and prompt.notes:
            found = await self._after_own_answers(sample)
            prompt, encoded = found or (prompt, encoded)
            history = History.OWN if found else History.FALLBACK
        written = await self._write(sample, encoded, 1 if validating else self.config.n, greedy=validating)
        generated = time.perf_counter()
        texts = [self.encoder.read(answer.ids) for answer in written]
        scored = await self.scorer.score(sample, texts, validating, prompt.boxes)
        seconds = {"generate": generated - begin, "reward": time.perf_counter() - generated}
        answers = tuple(
            Answer(text, len(answer.ids), answer.truncated, each)
            for text, answer, each in zip(texts, written, scored, strict=True)
        )
        return Group(sample, prompt, answers, seconds, history), encoded, written

    async def _after_own_answers(self, sample: Sample) -> tuple[PolicyPrompt, Encoded] | None:
        """Write the prompt after the policy's own earlier answers; None if after those it can't be asked."""
        frame = self.encoder.checkpoint.frame

        async def write(prompt: PolicyPrompt) -> ParsedAnswer | None:
            encoded = self._fitting(sample, prompt)
            if encoded is None:
                return None
            [answer] = await self._write(sample, encoded, 1, greedy=True)
            return parse_answer(self.encoder.read(answer.ids), self.encoder.format, frame.extent(sample.size))

        prompt = await prompt_after_own_answers(sample, frame, write)
        encoded = prompt and self._fitting(sample, prompt)
        return (prompt, encoded) if prompt and encoded else None

    def _fitting(self, sample: Sample, prompt: PolicyPrompt) -> Encoded | None:
        """Tokenize the prompt; None if it is too long or can't be asked."""
        try:
            encoded = self.encoder.encode(sample, prompt)
        except UserError:
            return None
        return encoded if len(encoded) <= self.config.prompt_length else None

    async def _write(self, sample: Sample, encoded: Encoded, count: int, greedy: bool) -> list[Any]:
        return await self._next_server().write_group.remote(
            encoded.short, sample.image, self.encoder.checkpoint, count, self._sampling(greedy)
        )

    def _next_server(self) -> Any:
        """Replicas take turns, a group each: all groups of a batch ask for the same amount of work."""
        self._turn += 1
        return self.servers[self._turn % len(self.servers)]

    def _sampling(self, greedy: bool) -> dict[str, Any]:
        config = self.config
        chosen = config.val_kwargs if greedy else config
        return {
            "temperature": 0.0 if greedy else chosen.temperature,
            "top_p": chosen.top_p,
            "top_k": chosen.top_k,
            "max_tokens": config.response_length,
        }

    async def _hand_over(
        self, uid: str, index: int, step: int, group: Group, encoded: Encoded, written: Sequence[Any]
    ) -> None:
        """Put a group's trajectories where verl's trainer looks for them, then say that they are there."""
        rows = [
            trajectory(encoded, answer.ids, answer.log_probs, total, self.encoder, str(group.sample.image))
            for answer, total in zip(written, group.totals, strict=True)
        ]
        fields = as_batch([{**row, "uid": uid, "index": index} for row in rows])
        keys = [f"{uid}_{number}_0" for number in range(len(rows))]
        tags = [
            {
                "status": "success",
                "prompt_len": len(encoded),
                "response_len": len(answer.ids),
                "seq_len": len(encoded) + len(answer.ids),
                "global_steps": step,
                "min_global_steps": answer.weights,
                "max_global_steps": answer.weights,
            }
            for answer in written
        ]
        await tq.async_kv_batch_put(keys=keys, fields=fields, tags=tags, partition_id=TRAIN)
        await tq.async_kv_put(key=uid, partition_id=TRAIN, tag={"status": "finished"})


def trajectory(
    encoded: Encoded, ids: list[int], log_probs: list[float], total: float, encoder: Encoder, image: str
) -> dict[str, Any]:
    """One answer as verl's trainer reads it; the image stays a path, which `engine` opens."""
    responses = torch.tensor(ids)  # [R]
    prompts = torch.tensor(encoded.ids)  # [P]
    mask = torch.ones_like(responses)
    rewards = torch.zeros(len(ids))
    rewards[-1] = total  # the whole reward on the last token
    return {
        "prompts": prompts,
        "responses": responses,
        "input_ids": torch.cat([prompts, responses]),
        "position_ids": encoder.positions(encoded, len(ids)),  # [4, P + R]
        "response_mask": mask,
        "loss_mask": mask,
        "rollout_log_probs": torch.tensor(log_probs),
        "rm_scores": rewards,
        "multi_modal_inputs": {"image": image},
        "num_turns": 2,
        "data_source": "samples",
    }


def as_batch(rows: Sequence[dict[str, Any]]) -> TensorDict:
    """Rows as one TensorDict: tensors nested along their last dimension, everything else as it is."""
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    return list_of_dict_to_tensordict(list(rows))
