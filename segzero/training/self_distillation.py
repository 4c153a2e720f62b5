"""Self-distillation: the policy learns from itself, better informed by its attempts at the same question.

The teacher is the policy with its present weights, and its prompt also shows the best attempts of the group that is
being learnt from. Teacher and student read the same answers, which the student has sampled; in each place the student
is drawn towards the teacher's probabilities by the Jensen-Shannon divergence (segzero.self_distillation).

1. `rollouts` makes the teacher's prompt when a group is scored: `teacher_prompt`. It travels beside each trajectory.
2. `engine` asks the teacher before each pass of an update, without gradient: `teacher_batch`. Its targets are the
   likeliest tokens in each place, and one bucket for the rest.
3. The pass then gives the student's log-probs of those tokens: `divergence`; `distilled` adds their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor

from segzero.answer import Answer
from segzero.dialogue.prompting import PolicyPrompt
from segzero.sample import Sample
from segzero.several_answers import notes_of
from segzero.training.tokenization import EncodedPrompt, Encoder

METRIC = "distillation/jsd"
TEACHER_PROMPTS, TEACHER_POSITIONS = "teacher_prompts", "teacher_positions"  # columns of a batch
TEACHER_IDS, TEACHER_LOG_PROBS = "teacher_ids", "teacher_log_probs"  # [rows, answer, k], which the teacher adds
TOP_K = "teacher_top_k"  # in a batch for the teacher
SMALLEST = 1e-7  # the probability of the rest is a difference in float32: below this it is rounding


# The teacher's prompt


@dataclass(frozen=True, eq=False)
class TeacherPrompt:
    """The prompt of the better-informed policy; without a readable attempt it is the student's."""

    encoded: EncodedPrompt
    attempts: int  # that it shows

    def columns(self, encoder: Encoder, answer_length: int) -> dict[str, Tensor]:
        """The columns that a trajectory with such an answer gets."""
        # Flat, because verl repairs the nesting of two-dimensional columns in position_ids alone.
        positions = encoder.positions(self.encoded, answer_length).flatten()  # [4 * (teacher's prompt + answer)]
        return {TEACHER_PROMPTS: torch.tensor(self.encoded.ids), TEACHER_POSITIONS: positions}


def teacher_prompt(
    encoder: Encoder,
    sample: Sample,
    prompt: PolicyPrompt,
    answers: Sequence[Answer],
    rewards: Sequence[float],
    settings: DictConfig,
) -> TeacherPrompt:
    """Show the best attempts before the question; as many as `settings` has, and fewer if they take too many tokens."""
    order = sorted(range(len(answers)), key=lambda place: rewards[place], reverse=True)
    best = [answers[place] for place in order if answers[place].error is None][: settings.attempts]
    encoded = plain = encoder.encode(sample, prompt)
    while best:
        note = notes_of(best, encoder.format)  # as an evaluation with own attempts writes it
        notes = f"{prompt.notes}\n{note}" if prompt.notes else note
        encoded = encoder.encode(sample, replace(prompt, notes=notes))
        if len(encoded) - len(plain) <= settings.attempt_tokens:
            return TeacherPrompt(encoded, len(best))
        best.pop()
    return TeacherPrompt(plain, 0)


def teacher_batch(batch: TensorDict, top_k: int) -> TensorDict:
    """Put the answers of a batch after the teacher's prompts; a pass of it finds `top_k` tokens in each place."""
    from verl.utils.tensordict_utils import assign_non_tensor

    prompts, answers = batch[TEACHER_PROMPTS].unbind(), batch["responses"].unbind()
    tokens = [torch.cat(row) for row in zip(prompts, answers, strict=True)]
    positions = torch.cat([row.view(4, -1) for row in batch[TEACHER_POSITIONS].unbind()], dim=1)
    teacher = batch.select("responses", "multi_modal_inputs", "temperature", strict=False)
    teacher["prompts"] = batch[TEACHER_PROMPTS]
    teacher["input_ids"] = torch.nested.as_nested_tensor(tokens, layout=torch.jagged)
    teacher["position_ids"] = torch.nested.nested_tensor_from_jagged(
        positions, teacher["input_ids"].offsets(), jagged_dim=2
    )
    assign_non_tensor(teacher, **{TOP_K: top_k})
    return teacher


# The loss


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats, at most log 2, log-probs [N, k] of the same k tokens and the rest -> [N].

    >>> even, sure = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]]).clamp(1e-9).log()
    >>> divergence(even, even).item(), round(divergence(even, sure).item(), 4)
    (0.0, 0.2158)
    """
    p, q = _with_rest(teacher), _with_rest(student)
    middle = torch.logaddexp(p, q) - torch.log(torch.tensor(2.0))
    return ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2


def _with_rest(log_probs: Tensor) -> Tensor:
    rest = (1 - log_probs.exp().sum(-1, keepdim=True)).clamp_min(SMALLEST).log()
    return torch.cat([log_probs, rest], dim=-1)


def distilled(policy_loss: partial, weight: float) -> partial:
    """Add the mean divergence to verl's loss of the policy; its tokens weigh what they do there."""
    return partial(_distilled_loss, policy_loss, weight, policy_loss.keywords["config"])


def _distilled_loss(
    policy_loss: partial,
    weight: float,
    config: Any,
    model_output: dict[str, Tensor],
    data: TensorDict,
    dp_group: Any = None,
) -> tuple[Tensor, dict[str, Any]]:
    from verl.trainer.ppo.core_algos import agg_loss
    from verl.utils.metric import AggregationType, Metric
    from verl.workers.utils.padding import no_padding_2_padding

    loss, metrics = policy_loss(model_output=model_output, data=data, dp_group=dp_group)
    by_token = no_padding_2_padding(model_output["divergence"], data)  # [rows, longest answer]
    mask = data["response_mask"].to_padded_tensor(0).bool()
    mean = agg_loss(by_token, mask, config.loss_agg_mode, **config.global_batch_info)
    # Each pass has a share of the update's mean.
    return loss + weight * mean, metrics | {METRIC: Metric(value=mean, aggregation=AggregationType.SUM)}
