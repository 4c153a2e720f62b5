"""The groups of a step: waits until they are there, and has those replaced that would teach nothing.

This stands where verl has its replay buffer. The rollouts run in this process, so nobody has to ask the TransferQueue
which groups are finished: it only carries their trajectories to the trainers.

With `algorithm.filter_groups` (DAPO's dynamic sampling) a group all of whose answers earn the same is dropped and a new
prompt takes its place at once, while the other groups are still being generated. A step tries a limited number of
prompts; the flat groups found after that are trained on, so that a step always has as many groups as configured, which
spread evenly over the GPUs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from omegaconf import DictConfig
from transfer_queue import KVBatchMeta

from segzero.training.rollouts import HandedOver, Rollouts


class FlatFilter(NamedTuple):
    """The value by which a group is flat, and how many batches of prompts a step tries in search of others."""

    value: str
    batches: int


def flat_filter(config: DictConfig) -> FlatFilter | None:
    """The filter that the configuration asks for, if any."""
    chosen = config.algorithm.filter_groups
    return FlatFilter(chosen.metric, chosen.max_num_gen_batches) if chosen.enable else None


class GroupBuffer:
    """Collects the groups that `rollouts` hand over; `refill` starts so many prompts more."""

    rollouts: Rollouts  # set when they start

    def __init__(self, refill: Callable[[int], Any], batches: int = 1) -> None:
        self.refill, self.batches = refill, batches

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, int]]:
        """Wait for a step's groups; returns their trajectories by key, in the order in which prompts were started."""
        groups: list[HandedOver] = []
        tried, kept = batch_size, 0
        while True:
            flat = self.rollouts.take_held_back()
            new = min(len(flat), batch_size * self.batches - tried)
            if new:
                self.refill(new)
            for group in flat[new:]:
                self.rollouts.hand_over(group)
            tried, kept = tried + new, kept + len(flat) - new
            groups += self.rollouts.take_handed_over()
            if len(groups) >= batch_size:
                break
            self.rollouts.wait_for_change()
        groups.sort(key=lambda group: group.order)
        keys, tags = [key for group in groups for key in group.keys], [tag for group in groups for tag in group.tags]
        metrics = {"rollout/refilled_groups": tried - batch_size, "rollout/kept_flat_groups": kept}
        return KVBatchMeta(keys, tags, partition_id), metrics if self.batches > 1 else {}
