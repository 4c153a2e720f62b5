"""verl's synchronous GRPO trainer with our rollouts, validation, checkpoints and log.

What stays verl's: resource pools, the FSDP workers, the vLLM replicas, weight synchronisation, log-probs,
advantages, the update, the loop itself. What is replaced is named below, one method each.
"""

import math
import time
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import DictConfig, open_dict
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from verl.single_controller.ray import RayResourcePool
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.tracking import Tracking
from verl.workers.rollout.llm_server import LLMServerManager

from segzero.errors import UserError
from segzero.io import write_json
from segzero.training import checkpoints, log
from segzero.training.engine import PolicyWorker
from segzero.training.monitor import Progress, Recorder, group_metrics, stage, validation_metrics
from segzero.training.rollouts import PATIENCE, Rollouts
from segzero.training.scorer import ActorDrawer, Scorer
from segzero.training.segmenter_actor import SegmenterActor
from segzero.training.shared_folder import check_shared
from segzero.training.vllm_server import GroupReplica
from segzero.training.watchdog import Watch


class WakingBuffer(ReplayBuffer):
    """verl's replay buffer, which looks when a group is finished instead of every 2 s."""

    rollouts: Rollouts

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        self.rollouts.changed.wait(PATIENCE)
        self.rollouts.changed.clear()
        self.rollouts.check()
        return last_debug_time


class ServerManager(LLMServerManager):
    """verl's manager of replicas, with ours, and without its router's actor: a whole group goes to one replica.

    The segmenter starts beside them, as this is where the trainers' GPUs are known and not yet full.
    """

    rollout_replica_class = GroupReplica

    async def _initialize_llm_servers(self, start_rank: int | None = None) -> None:
        check_shared(Path(self.config.trainer.default_local_dir), self.worker_group.sees)
        stage("trainers ready; starting the segmenter and the rollout engine")
        self.segmenter = start_segmenter(self.config.segzero.segmenter, self.rollout_resource_pool)
        if self.segmenter:  # what it takes of the card must be there before vLLM measures what is left
            await self.segmenter.ping.remote()
        await super()._initialize_llm_servers(start_rank)
        stage("rollout engine ready")

    async def _init_global_load_balancer(self) -> None:
        self.global_load_balancer = None


class Log(Tracking):
    """verl's loggers, and a file of all numbers that a resumed run goes on with."""

    file: Path

    def log(self, data: dict[str, Any], step: int, backend: Any = None) -> None:
        super().log(data, step, backend)
        log.append(self.file, step, data)


class Trainer(PPOTrainerSync):
    """One run. `config.segzero` holds what verl has no key for."""

    role_worker_mapping: dict[Any, Any]  # verl's Role -> Ray actor class

    def __init__(self, config: DictConfig) -> None:
        trainer_base.LLMServerManager, trainer_base.Tracking = ServerManager, Log
        self.run = Path(config.trainer.default_local_dir)
        Log.file = self.run / log.NAME
        super().__init__(config)
        self.settings = config.segzero
        self.progress = Progress()
        self.watch = Watch({})

    # Parts

    def _build_replay_buffer(self) -> WakingBuffer:
        sampler = self.config.trainer.v1.sampler
        return WakingBuffer(
            trainer_mode=self.trainer_mode,
            trainer_config={},
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy,
            sampler_kwargs={},
        )

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        if not self.steps_per_epoch:
            raise UserError(
                f"{len(self.train_dataset)} training samples are less than one step's "
                f"data.train_batch_size={self.config.data.train_batch_size}; make it smaller"
            )
        needed = math.ceil(self.total_training_steps / self.steps_per_epoch)
        with open_dict(self.config):  # verl stops at whichever comes first
            self.config.trainer.total_epochs = max(self.config.trainer.total_epochs, needed)

    def _init_resource_pool_mgr(self) -> None:
        stage("data read; starting the trainers")
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = dict.fromkeys(self.role_worker_mapping, ray.remote(PolicyWorker))

    def start_rollouts(self) -> Rollouts:
        """What stands where verl has its agent loops; after `init`."""
        segmenter = self.llm_server_manager.segmenter
        drawer = ActorDrawer(segmenter) if segmenter else None
        encoder = self.train_dataset.encoder
        self.scorer = Scorer(self.config.reward.name, encoder.format, encoder.checkpoint.frame, drawer)
        self.scorer.restore(self._restored.get("ranks", {}))
        self.recorder = Recorder(
            self.run / "rollouts", encoder.checkpoint.frame, self.settings.record, self.settings.panels_every
        )
        rollout = self.config.actor_rollout_ref.rollout
        servers = self.llm_server_manager.server_handles
        trainers = self.actor_rollout_wg.workers
        asks = {f"rollout replica {i}": server.answers.remote for i, server in enumerate(servers)}
        asks |= {f"trainer {i}": trainer.__ray_ready__.remote for i, trainer in enumerate(trainers)}
        if segmenter:
            asks["segmenter"] = segmenter.ping.remote
        self.watch = Watch(asks, trainers)
        self.watch.start()
        rollouts = Rollouts(
            servers,
            self.train_dataset.samples,
            encoder,
            self.scorer,
            rollout,
            self.watch,
            own_history=self.config.data.own_history,
        )
        self.replay_buffer.rollouts = rollouts
        return rollouts

    def fit(self, agent_loop_manager: Rollouts) -> None:
        self.rollouts = agent_loop_manager
        self.progress.start(self.global_steps, self.total_training_steps)
        super().fit(agent_loop_manager)

    def _balance_batch(self, batch: Any, metrics: dict, **options: Any) -> Any:
        """verl spreads a prompt's answers over the GPUs; kept together, they share a pass of the vision tower."""
        batch = super()._balance_batch(batch, metrics, **options)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        batch.reorder(whole_groups([key.rsplit("_", 2)[0] for key in batch.keys], _lengths(batch), ranks))
        return batch

    # Validation: the walk of evaluation on the held-out samples

    def _validate(self) -> dict[str, float]:
        begin = time.perf_counter()
        groups = self.rollouts.answer(self.val_dataset.samples)
        metrics = validation_metrics(groups) | {"val/seconds": time.perf_counter() - begin}
        self._keep_best(metrics)
        self.progress.validated(metrics)
        return metrics

    def _keep_best(self, metrics: dict[str, float]) -> None:
        """Save the step that validates best, by gIoU or without a segmenter by reward, but not the one started from."""
        if self.global_steps == 0 or self.config.trainer.save_freq <= 0:
            return
        by = "val/giou" if "val/giou" in metrics else "val/reward"
        before = checkpoints.best(self.run)
        if before is not None and metrics[by] <= before["metrics"].get(by, -math.inf):
            return
        if self._saved != self.global_steps:
            self._save_weights()
        found = {"step": self.global_steps, "by": by, "metrics": metrics}
        write_json(self.run / checkpoints.BEST, found, indent=1, allow_nan=True)
        self._prune()  # an earlier best may go now

    # Checkpoints: atomic, and resumed only when whole

    def _save_checkpoint(self) -> None:
        place = checkpoints.unfinished(self.run, self.global_steps)
        self.actor_rollout_wg.save_checkpoint(str(place / "actor"), None, self.global_steps, max_ckpt_to_keep=None)
        torch.save(self.train_dataloader.state_dict(), place / "data.pt")
        done = checkpoints.finish(self.run, self.global_steps, {"ranks": self.scorer.state()})
        self._saved = self.global_steps
        self._prune()
        self.checkpoint_callback.on_save(trainer=self, global_step=self.global_steps, checkpoint_dir=str(done))

    def _save_weights(self) -> None:
        """Save a step that will be merged, not gone on from: the optimizer is two thirds of a checkpoint."""
        place = checkpoints.unfinished(self.run, self.global_steps)
        self.actor_rollout_wg.save_weights(str(place / "actor"), self.global_steps)
        checkpoints.finish(self.run, self.global_steps, {}, weights_only=True)

    def _prune(self) -> None:
        best = checkpoints.best(self.run)
        checkpoints.prune(self.run, self.settings.keep_last, [best["step"]] if best else [])

    def _load_checkpoint(self) -> None:
        self._restored: dict[str, Any] = {}
        self._saved = 0  # the newest step that this run saved, or went on from
        found, passed = checkpoints.find(self.run, self.settings.resume)
        for line in passed:
            print(line, flush=True)
        mode, path = ("resume_path", str(found.absolute())) if found else ("disable", None)
        with open_dict(self.config):
            self.config.trainer.resume_mode, self.config.trainer.resume_from_path = mode, path
        if found:
            checkpoints.check_world_size(found, self.resource_pool_manager.get_n_gpus())
            self._restored = checkpoints.read_state(found)
            print(f"resuming from {found}", flush=True)
        super()._load_checkpoint()
        if found and found.absolute().parent == self.run:
            self._saved = self.global_steps

    # The log

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        groups = self.rollouts.drain()
        self.scorer.end_step()
        metrics.update(group_metrics(groups))
        self.recorder.record(global_steps, groups, self.logger)
        self.progress.stepped(global_steps, metrics)


def whole_groups(groups: list[str], lengths: list[int], ranks: int) -> list[int]:
    """An order of rows in which each rank's share is whole groups of like total length, if they divide evenly.

    >>> whole_groups(["a", "b", "a", "b"], [5, 1, 5, 1], 2)
    [0, 2, 1, 3]
    """
    from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

    rows: dict[str, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    members = list(rows.values())
    if len(members) % ranks or len({len(group) for group in members}) > 1:
        return list(range(len(groups)))
    work = calculate_workload(torch.tensor(lengths)).tolist()
    loads = [sum(work[row] for row in group) for group in members]
    shares = get_seqlen_balanced_partitions(loads, k_partitions=ranks, equal_size=True)
    return [row for share in shares for place in sorted(share) for row in members[place]]


def _lengths(batch: Any) -> list[int]:
    return [tag["seq_len"] for tag in batch.tags]


def start_segmenter(settings: DictConfig, pool: RayResourcePool) -> Any | None:
    """The segmenter's actor, on the first trainer's GPU, or None where no checkpoint is named."""
    if not settings.path:
        return None
    place = PlacementGroupSchedulingStrategy(pool.get_placement_groups()[0], placement_group_bundle_index=0)
    options = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus, "scheduling_strategy": place}
    cache = int(settings.cache_gb * 2**30)
    actor = ray.remote(SegmenterActor).options(name="segmenter", **options)
    return actor.remote(settings.path, settings.backend, settings.device, cache)
