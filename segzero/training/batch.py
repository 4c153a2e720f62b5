"""Arithmetic of one training step: prompts, answers, updates and micro-batches."""

from dataclasses import dataclass

from omegaconf import DictConfig

from segzero.training.config import positive_int


@dataclass(frozen=True)
class BatchSizes:
    """Sizes of one step.

    >>> print(BatchSizes(prompts=16, answers=8, mini=128, micro=4, max_tokens=None, gpus=4))
    16 prompts x 8 answers = 128 a step, 1 update of 128, 32 a GPU, micro-batches of 4
    """

    prompts: int
    answers: int  # per prompt
    mini: int  # answers per update
    micro: int | None  # answers per forward pass and GPU; None: as many as fit into max_tokens
    max_tokens: int | None
    gpus: int

    @property
    def total(self) -> int:
        """Answers per step."""
        return self.prompts * self.answers

    @property
    def updates(self) -> int:
        """Updates per step."""
        return self.total // self.mini

    def __str__(self) -> str:
        passes = f"micro-batches of {self.micro}" if self.micro else f"up to {self.max_tokens} tokens a pass"
        return (
            f"{self.prompts} prompts x {self.answers} answers = {self.total} a step, "
            f"{self.updates} update{'s' * (self.updates != 1)} of {self.mini}, {self.mini // self.gpus} a GPU, {passes}"
        )


def batch_sizes(config: DictConfig) -> BatchSizes:
    """Read the sizes of a step from the configuration."""
    actor, answers = "actor_rollout_ref.actor", positive_int(config, "actor_rollout_ref.rollout.n")
    dynamic = config.actor_rollout_ref.actor.use_dynamic_bsz
    return BatchSizes(
        prompts=positive_int(config, "data.train_batch_size"),
        answers=answers,
        mini=positive_int(config, f"{actor}.ppo_mini_batch_size") * answers,
        micro=None if dynamic else positive_int(config, f"{actor}.ppo_micro_batch_size_per_gpu"),
        max_tokens=positive_int(config, f"{actor}.ppo_max_token_len_per_gpu") if dynamic else None,
        gpus=positive_int(config, "trainer.n_gpus_per_node") * positive_int(config, "trainer.nnodes"),
    )
