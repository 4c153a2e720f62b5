"""verl's synchronous GRPO trainer with our rollouts, validation, checkpoints and log.

One step, in order, with the functions that do it and the configuration keys that they read (ARR stands for
`actor_rollout_ref`):

 1. Samples: verl's data loader picks the next rows of `dataset.SampleDataset` (data.train_files,
    data.train_batch_size); `rollouts.Rollouts.generate_sequences` starts each of them.
 2. Prompt: `dialogue.prompting.sample_prompt` writes the question, in a dialogue after the earlier rounds; for a
    share of later rounds these are the policy's own answers, `own_history.prompt_after_own_answers`
    (data.prompt, data.frame, data.own_history). A share of plain questions becomes a look at the policy's own mask,
    `own_masks.sample_at_look` (segzero.own_masks, segzero.looks). `tokenization.Encoder.encode` tokenizes it.
 3. Answers: `vllm_server.GroupServer.generate_group` generates n of them (ARR.rollout.n, ARR.rollout.temperature,
    data.max_response_length).
 4. Parse: `scorer.Scorer.score` calls `answer.parse_answer`, which reads boxes and points from each text.
 5. Masks: `segmenter_actor.SegmenterActor.draw`, if the reward needs them (segzero.segmenter).
 6. Reward: `rewards.Rubric.score`, the user's function or a candidate (reward.name); continuous terms are ranked by
    `rewards.QuantileRanks`, and `rewards.Overlong` takes off what long answers lose (segzero.overlong).
    `rollouts.trajectory` is what verl gets, once `group_buffer.GroupBuffer` has all groups of the step; it has flat
    ones replaced (algorithm.filter_groups).
 7. Log-probs: `engine.SharedPromptEngine` opens the images and computes them under the policy before the update, unless
    those of vLLM serve (algorithm.rollout_correction.bypass_mode), and under the reference (ARR.actor.use_kl_loss).
 8. Group advantage: verl's `compute_grpo_outcome_advantage` subtracts the mean reward of the group, and divides by
    its standard deviation (algorithm.adv_estimator, algorithm.norm_adv_by_std_in_grpo).
 9. Loss and update: verl's `ppo_loss` is the clipped policy gradient with KL and entropy terms, in that engine; one
    optimizer step per ARR.actor.ppo_mini_batch_size prompts (ARR.actor.policy_loss.loss_mode,
    ARR.actor.loss_agg_mode, ARR.actor.kl_loss_coef, ARR.actor.entropy_coeff, ARR.actor.optim). With
    segzero.self_distillation the policy also learns from itself, better informed: `self_distillation`.
10. Checkpoint: `Trainer._save_checkpoint`, every trainer.save_freq steps.
11. Weights to the servers: verl's `CheckpointEngineManager.update_weights` (ARR.rollout.checkpoint_engine).
12. Validation: `Trainer._validate` scores one greedy answer to each sample of data.val_files, every trainer.test_freq
    steps.
13. Log: `Trainer._compute_metrics` (trainer.logger, segzero.record), while 1 to 6 of the next step run already.

With segzero.one_step_off, 1 to 6 of the next step run beside 7 to 10 of this one, and 11 waits for them: answers come
from the weights before the last update, never from two versions, and 12 has the servers to itself.

verl keeps its resource pools, FSDP workers, vLLM replicas, weight transfer, log-probs, advantages, updates, and the
loop itself. Each method below replaces or extends one of its parts.
"""

import math
import time
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from omegaconf import DictConfig, open_dict
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from verl.single_controller.ray import RayResourcePool
from verl.trainer.ppo.v1 import trainer_base
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils.debug import marked_timer
from verl.utils.tracking import Tracking
from verl.workers.rollout.llm_server import LLMServerManager

from rewards import Overlong
from segzero.errors import UserError
from segzero.io import write_json
from segzero.segmenter import load_segmenter
from segzero.training import checkpoints, metrics_log, self_distillation
from segzero.training.cluster import is_own_ray
from segzero.training.engine import PolicyWorker
from segzero.training.group_buffer import GroupBuffer, flat_filter
from segzero.training.monitor import Recorder, group_metrics, validation_metrics
from segzero.training.own_masks import OwnMasks
from segzero.training.progress import Progress, print_stage
from segzero.training.rollouts import Rollouts
from segzero.training.scorer import Scorer
from segzero.training.segmenter_actor import SegmenterActor
from segzero.training.shared_folder import check_shared
from segzero.training.vllm_server import GroupReplica
from segzero.training.watchdog import Watchdog


class ServerManager(LLMServerManager):
    """verl's manager of replicas, with ours, and without a router: a whole group goes to one replica.

    The segmenter is started here too, because here the trainers' GPUs are known and not yet full.
    """

    rollout_replica_class = GroupReplica

    async def _initialize_llm_servers(self, start_rank: int | None = None) -> None:
        check_shared(Path(self.config.trainer.default_local_dir), self.worker_group.sees_file)
        print_stage("trainers ready; starting the segmenter and the rollout engine")
        self.segmenter = start_segmenter(self.config.segzero.segmenter, self.rollout_resource_pool)
        if self.segmenter:  # it must hold its memory of the card before vLLM measures the rest
            await self.segmenter.ping.remote()
        await super()._initialize_llm_servers(start_rank)
        print_stage("rollout engine ready")

    async def _init_global_load_balancer(self) -> None:
        self.global_load_balancer = None


class RunTracking(Tracking):
    """verl's loggers, and a file of all numbers that a resumed run continues."""

    file: Path

    def log(self, data: dict[str, Any], step: int, backend: Any = None) -> None:
        super().log(data, step, backend)
        metrics_log.append(self.file, step, data)


class Trainer(PPOTrainerSync):
    """The trainer of one run; `config.segzero` holds the settings that verl has no key for."""

    role_worker_mapping: dict[Any, Any]  # verl's Role -> Ray actor class

    def __init__(self, config: DictConfig) -> None:
        trainer_base.LLMServerManager, trainer_base.Tracking = ServerManager, RunTracking
        self.run = Path(config.trainer.default_local_dir)
        RunTracking.file = self.run / metrics_log.NAME
        super().__init__(config)
        self.settings = config.segzero
        self.progress = Progress()
        self.watchdog = Watchdog({})
        self._place_before: dict[str, Any] | None = None  # in the data, before a batch that was started ahead

    # Parts

    def init(self) -> None:
        """Start all parts, first the processes of the servers if it is known where they will be."""
        if is_own_ray(self.config):
            start_servers(self.config)
        super().init()

    def _build_replay_buffer(self) -> GroupBuffer:
        self.flat_filter = flat_filter(self.config)
        return GroupBuffer(self._add_prompts_to_generate, self.flat_filter.batches if self.flat_filter else 1)

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
        print_stage("data read; starting the trainers")
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = dict.fromkeys(self.role_worker_mapping, ray.remote(PolicyWorker))

    def start_rollouts(self) -> Rollouts:
        """Start the replacement of verl's agent loops, after `init`; the watchdog starts with it."""
        segmenter = self.llm_server_manager.segmenter
        encoder, rollout = self.train_dataset.encoder, self.config.actor_rollout_ref.rollout
        frame = encoder.checkpoint.frame
        draw = segmenter.draw.remote if segmenter else None
        self.scorer = Scorer(self.config.reward.name, encoder.format, frame, draw, overlong_penalty(self.config))
        self.scorer.restore(self._restored.get("ranks", {}))
        self.recorder = Recorder(self.run / "rollouts", frame, self.settings.record, self.settings.panels_every)
        servers, trainers = self.llm_server_manager.server_handles, self.actor_rollout_wg.workers
        pings = {f"rollout replica {i}": server.check_engine.remote for i, server in enumerate(servers)}
        pings |= {f"trainer {i}": trainer.__ray_ready__.remote for i, trainer in enumerate(trainers)}
        if segmenter:
            pings["segmenter"] = segmenter.ping.remote
        self.watchdog = Watchdog(pings, trainers)
        self.watchdog.start()
        rollouts = Rollouts(
            servers,
            self.train_dataset.samples,
            encoder,
            self.scorer,
            rollout,
            self.watchdog,
            own_history=self.config.data.own_history,
            own_masks=OwnMasks(self.settings.own_masks, self.settings.looks),
            hold_back=self.flat_filter.value if self.flat_filter else None,
            self_distillation=self.settings.self_distillation if self.settings.self_distillation.weight else None,
        )
        self.replay_buffer.rollouts = rollouts
        return rollouts

    def fit(self, agent_loop_manager: Rollouts) -> None:
        """Train to the last step."""
        self.rollouts = agent_loop_manager
        self.progress.start(self.global_steps, self.total_training_steps)
        super().fit(agent_loop_manager)

    # One step

    def prepare_step(self) -> dict[str, Any]:
        """Start the step's batch, unless that was done ahead."""
        ahead, self._place_before = self._place_before, None
        return super().prepare_step() if ahead is None else {}

    def on_sample_end(self) -> None:
        """End the rollouts of the step, and start those of the next if they may run beside the update."""
        super().on_sample_end()
        self.scorer.end_step()
        if self.settings.one_step_off:
            self._start_next()

    def on_step_end(self) -> None:
        """Send the weights to the servers once they generate nothing: no answer is of two versions.

        The next step's rollouts then start at once, beside the log of this one, but after a validation.
        """
        with marked_timer("wait", self.timing_raw):
            self.rollouts.wait()
        super().on_step_end()
        validates = self.config.trainer.test_freq > 0 and self.global_steps % self.config.trainer.test_freq == 0
        if not self.settings.one_step_off and not validates:
            self._start_next()

    def _start_next(self) -> None:
        """Start the batch of the next step, if there is one."""
        if self.global_steps < self.total_training_steps:
            self._place_before = deepcopy(self.train_dataloader.state_dict())
            self.global_steps += 1  # verl stamps it on what it starts
            super().prepare_step()
            self.global_steps -= 1

    def _submit_batch_to_rollout(self, batch: Any) -> int:
        """Start prompts; verl would also mark each of them in the TransferQueue, where nobody looks."""
        self.agent_loop_manager.generate_sequences(batch)
        return len(batch)

    def _balance_batch(self, batch: Any, metrics: dict, **options: Any) -> Any:
        """verl spreads a prompt's answers over the GPUs; kept together, they share a pass of the vision tower."""
        batch = super()._balance_batch(batch, metrics, **options)
        ranks = max(self.actor_rollout_wg._dispatch_info["actor"]) + 1
        batch.reorder(whole_groups([key.rsplit("_", 2)[0] for key in batch.keys], _lengths(batch), ranks))
        return batch

    # Validation on the held-out samples

    def _validate(self) -> dict[str, float]:
        begin = time.perf_counter()
        groups = self.rollouts.validate(self.val_dataset.samples)
        metrics = validation_metrics(groups) | {"val/seconds": time.perf_counter() - begin}
        self._keep_best(metrics)
        self.progress.validated(metrics)
        return metrics

    def _keep_best(self, metrics: dict[str, float]) -> None:
        """Save the step that validates best, by gIoU or without a segmenter by reward; never the one started from."""
        if self.global_steps == 0 or self.config.trainer.save_freq <= 0:
            return
        by = "val/giou" if "val/giou" in metrics else "val/reward"
        before = checkpoints.best(self.run)
        if before is not None and metrics[by] <= before["metrics"].get(by, -math.inf):
            return
        if self._saved != self.global_steps:
            self._save_weights()
        best = {"step": self.global_steps, "by": by, "metrics": metrics}
        write_json(self.run / checkpoints.BEST, best, indent=1, allow_nan=True)
        self._prune()  # an earlier best may go now

    # Checkpoints: atomic, and resumed only when whole

    def _save_checkpoint(self) -> None:
        folder = checkpoints.new_unfinished(self.run, self.global_steps)
        self.actor_rollout_wg.save_checkpoint(str(folder / "actor"), None, self.global_steps, max_ckpt_to_keep=None)
        torch.save(self._place_before or self.train_dataloader.state_dict(), folder / "data.pt")
        done = checkpoints.finish(self.run, self.global_steps, {"ranks": self.scorer.state()})
        self._saved = self.global_steps
        self._prune()
        self.checkpoint_callback.on_save(trainer=self, global_step=self.global_steps, checkpoint_dir=str(done))

    def _save_weights(self) -> None:
        """Save a step to be merged, not resumed: the optimizer, two thirds of a checkpoint, is left out."""
        folder = checkpoints.new_unfinished(self.run, self.global_steps)
        self.actor_rollout_wg.save_weights(str(folder / "actor"), self.global_steps)
        checkpoints.finish(self.run, self.global_steps, {}, weights_only=True)

    def _prune(self) -> None:
        best = checkpoints.best(self.run)
        checkpoints.prune(self.run, self.settings.keep_last, [best["step"]] if best else [])

    def _load_checkpoint(self) -> None:
        self._restored: dict[str, Any] = {}
        self._saved = 0  # the newest step that this run saved, or was resumed from
        checkpoint, skipped = checkpoints.find(self.run, self.settings.resume)
        for line in skipped:
            print(line, flush=True)
        mode, path = ("resume_path", str(checkpoint.absolute())) if checkpoint else ("disable", None)
        with open_dict(self.config):
            self.config.trainer.resume_mode, self.config.trainer.resume_from_path = mode, path
        if checkpoint:
            checkpoints.check_world_size(checkpoint, self.resource_pool_manager.get_n_gpus())
            self._restored = checkpoints.read_state(checkpoint)
            print(f"resuming from {checkpoint}", flush=True)
        super()._load_checkpoint()
        if checkpoint and checkpoint.absolute().parent == self.run:
            self._saved = self.global_steps

    # The log

    def _compute_metrics(
        self, batch: Any, metrics: dict[str, Any], timing_raw: dict[str, float], global_steps: int, epoch: int
    ) -> None:
        super()._compute_metrics(batch, metrics, timing_raw, global_steps=global_steps, epoch=epoch)
        groups = self.rollouts.take_finished(global_steps)
        metrics.update(group_metrics(groups))
        if (divergence := metrics.pop(f"actor/{self_distillation.METRIC}", None)) is not None:
            metrics[self_distillation.METRIC] = divergence
        metrics["rollout/weights_lag"] = metrics["training/off_policy/trajectory_staleness/mean"]
        self.recorder.record(global_steps, groups, self.logger)
        self.progress.stepped(global_steps, metrics)


def overlong_penalty(config: DictConfig) -> Overlong | None:
    """The penalty for overlong answers that the configuration asks for."""
    chosen = config.segzero.overlong
    return Overlong(config.data.max_response_length, chosen.share, chosen.penalty) if chosen.share else None


def whole_groups(groups: list[str], lengths: list[int], ranks: int) -> list[int]:
    """Order the rows so that each rank gets whole groups of about the same total length, if they divide evenly.

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


def start_servers(config: DictConfig) -> None:
    """Start the processes of all replicas, which then import vLLM while the trainers start."""
    rollout = config.actor_rollout_ref.rollout
    of_one = rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size
    for rank in range(config.trainer.n_gpus_per_node // of_one):
        GroupReplica(rank, rollout, config.actor_rollout_ref.model, rollout.n_gpus_per_node).start_early()


def start_segmenter(settings: DictConfig, pool: RayResourcePool) -> Any | None:
    """Start the segmenter's actor on the first trainer's GPU; returns None if no checkpoint is configured."""
    if not settings.path:
        return None
    place = PlacementGroupSchedulingStrategy(pool.get_placement_groups()[0], placement_group_bundle_index=0)
    options = {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus, "scheduling_strategy": place}
    load = partial(load_segmenter, settings.path, settings.backend, device=settings.device)
    actor = ray.remote(SegmenterActor).options(name="segmenter", **options)
    return actor.remote(load, int(settings.cache_gb * 2**30))
