"""Each algorithm of configs/algo: its advantages, and its loss through the trainer's engine, worked out again here."""

from itertools import chain, combinations

import pytest
import torch

from segzero.shipped import config_dir
from segzero.training.config import compose
from tests.helpers import engines

ALGORITHMS = sorted(path.stem for path in config_dir().glob("algo/*.yaml"))
LENGTHS = [[7, 1, 30], [12, 5, 9]]  # tokens of the answers to two prompts
LOSSES = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "sapo", "clip_cov")  # the others change advantages alone
CHOICES = [
    "actor_rollout_ref.actor.use_kl_loss=false",
    "actor_rollout_ref.actor.entropy_coeff=0",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=120",  # several passes
]


def config_of(algorithm: str):
    return compose("train", [f"algo={algorithm}", *CHOICES])


# Losses


@pytest.fixture(scope="module")
def world(policy, samples, tmp_path_factory):
    """An engine, a batch whose old log-probs lie around the engine's own, and both as padded tensors [rows, tokens]."""
    from verl.workers.utils.padding import no_padding_2_padding

    folder = tmp_path_factory.mktemp("algorithms")
    engines.join_processes(folder)
    with pytest.MonkeyPatch.context() as patches:
        engines.keep_forwards(patches)
        engine, batch, _ = engines.Job(policy, folder, samples, LENGTHS, CHOICES[2:], True).start()
        with engine.eval_mode():
            values = engine.infer_batch(batch.clone())["model_output"]["log_probs"]
        log_probs = no_padding_2_padding(values, batch)  # [6, 30]
        mask = torch.zeros_like(log_probs)
        for row, length in enumerate(chain(*LENGTHS)):
            mask[row, :length] = 1
        # Ratios of 1, 1.25, 0.74, 1.65 and 3.67: each bound of each algorithm lies between two of them.
        noise = torch.tensor([0.0, 0.22, -0.3, 0.5, 1.3])
        old = log_probs - noise[torch.arange(mask.numel()) % 5].view_as(mask)
        advantages = (torch.tensor([1.5, -0.5, -1.0, -2.0, 0.5, 1.5])[:, None] * mask).float()
        for name, padded in (("old_log_probs", old), ("advantages", advantages)):
            rows = torch.cat([row[: int(count)] for row, count in zip(padded, mask.sum(1), strict=True)])
            batch[name] = torch.nested.nested_tensor_from_jagged(rows, batch["responses"].offsets())
        yield engine, batch, (log_probs, old, advantages, mask)
    torch.distributed.destroy_process_group()


def through_the_engine(world, algorithm: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a batch."""
    engine, batch, _ = world
    with engine.train_mode():
        engine.optimizer_zero_grad()
        output = engine.forward_backward_batch(batch.clone(), engines.loss_function(config_of(algorithm)))
        gradients = {n: p.grad.full_tensor().clone() for n, p in engine.module.named_parameters() if p.grad is not None}
    return sum(output["loss"]), gradients


def by_token(algorithm, log_probs, old, advantages, mask):
    """The loss of each token, as the papers write it."""
    ratio = (log_probs - old).exp()
    if algorithm == "gspo":
        mean = ((log_probs - old) * mask).sum(1) / mask.sum(1)
        ratio = mean.exp()[:, None].expand_as(mask)
    low, high = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4), "cispo": (1.0, 0.28)}.get(algorithm, (0.2, 0.2))
    clipped = ratio.clamp(1 - low, 1 + high)
    if algorithm == "cispo":
        return -clipped * advantages * log_probs
    if algorithm == "sapo":
        tau = torch.where(advantages > 0, 1.0, 1.05)
        return -4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantages
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    if algorithm in ("grpo", "dr_grpo", "dapo"):  # verl's dual clip, for bad answers that became much likelier
        loss = torch.where(advantages < 0, torch.minimum(loss, -3.0 * advantages), loss)
    return loss


def whole(algorithm, loss, mask):
    """One number for the losses of all tokens."""
    if algorithm in ("gspo", "sapo"):
        return float(((loss * mask).sum(1) / mask.sum(1)).mean())
    if algorithm == "dr_grpo":
        return float((loss * mask).sum() / len(mask) / config_of(algorithm).data.max_response_length)
    return float((loss * mask).sum() / mask.sum())


@pytest.mark.parametrize("algorithm", [name for name in LOSSES if name != "clip_cov"])
def test_the_engine_computes_the_loss_of_the_paper(world, algorithm):
    loss, _ = through_the_engine(world, algorithm)
    values = world[2]
    assert loss == pytest.approx(whole(algorithm, by_token(algorithm, *values), values[-1]), rel=1e-4)


def test_clip_cov_leaves_out_tokens_of_high_covariance(world):
    """One in each pass, among those between the bounds."""
    loss, _ = through_the_engine(world, "clip_cov")
    log_probs, old, advantages, mask = world[2]
    tokens = by_token("clip_cov", log_probs, old, advantages, mask) * mask
    left_out = float(tokens.sum()) - loss * float(mask.sum())
    candidates = tokens[(advantages * mask != 0)].tolist()
    assert abs(left_out) > 1e-4
    assert any(abs(left_out - sum(some)) < 1e-3 for some in _sums(candidates, 3))


def _sums(values, most):
    return (some for count in range(1, most + 1) for some in combinations(values, count))


@pytest.mark.parametrize("algorithm", [name for name in LOSSES if name != "grpo"])
def test_another_algorithm_makes_another_update(world, algorithm):
    """By more than a hundredth of it."""
    _, plain = through_the_engine(world, "grpo")
    _, found = through_the_engine(world, algorithm)
    a, b = (torch.cat([each[name].flatten() for name in sorted(plain)]) for each in (plain, found))
    assert float((a - b).norm() / a.norm()) > 0.01


# Advantages

REWARDS = [[1.0, 0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 4.0]]  # of the answers to two prompts
ESTIMATED = {
    "grpo": [[0.0, -0.7071, -0.7071, 1.4142], [-0.5, -0.5, -0.5, 1.5]],  # (r - mean) / std
    "dr_grpo": [[0.0, -1.0, -1.0, 2.0], [-0.5, -0.5, -0.5, 1.5]],  # r - mean
    "rloo": [[0.0, -4 / 3, -4 / 3, 8 / 3], [-2 / 3, -2 / 3, -2 / 3, 2.0]],  # r - mean of the others
    # r - mean, over the deviation of all tokens of the batch: sqrt(27 / 23), as each answer has three.
    "reinforce_plus_plus_baseline": [[0.0, -0.923, -0.923, 1.8459], [-0.4615, -0.4615, -0.4615, 1.3845]],
}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_advantages_are_those_of_the_paper(algorithm):
    import numpy as np
    from verl import DataProto
    from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories

    config = compose("train", [f"algo={algorithm}", "model=qwen2_5_vl_3b"]).algorithm  # the tiny one sets them itself
    rewards = torch.zeros(8, 3)
    rewards[:, -1] = torch.tensor(REWARDS).flatten()
    data = DataProto.from_single_dict(
        {"token_level_rewards": rewards, "response_mask": torch.ones(8, 3), "uid": np.repeat(["a", "b"], 4)}
    )
    found = compute_advantage_for_multi_trajectories(
        data,
        [f"{uid}_{number}_0" for uid in "ab" for number in range(4)],
        adv_estimator=config.adv_estimator,
        num_repeat=4,
        norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
        config=config,
    ).batch["advantages"]
    wanted = torch.tensor(ESTIMATED.get(algorithm, ESTIMATED["grpo"])).flatten()
    torch.testing.assert_close(found, wanted[:, None].expand(8, 3), atol=2e-3, rtol=0)


def test_dapo_replaces_flat_groups_and_shortens_answers():
    from segzero.training.group_buffer import flat_filter
    from segzero.training.trainer import overlong_penalty

    dapo, grpo = compose("train", ["algo=dapo"]), compose("train", ["algo=grpo"])
    assert flat_filter(grpo) is None and overlong_penalty(grpo) is None
    assert flat_filter(dapo).value == "reward"
    penalty = overlong_penalty(dapo)
    limit = dapo.data.max_response_length
    assert [penalty.value(tokens) for tokens in (round(0.8 * limit) - 1, limit)] == [0.0, -1.0]


# Corrections for older or other log-probs

RATIOS = [[1.0, 3.0, 0.4], [1.0, 1.0, 1.0]]  # of the policy's probability to vLLM's, for the tokens of two answers
WEIGHTS = {
    "token_is": [[1.0, 2.0, 0.4], [1.0, 1.0, 1.0]],
    "sequence_is": [[1.2, 1.2, 1.2], [1.0, 1.0, 1.0]],
    "icepop": [[1.0, 3.0, 0.0], [1.0, 1.0, 1.0]],
}


@pytest.mark.parametrize("name", [*WEIGHTS, "geo_rs"])
def test_a_correction_weighs_tokens_or_leaves_answers_out(name):
    from verl import DataProto
    from verl.trainer.config import AlgoConfig
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_add_to_batch
    from verl.utils.config import omega_conf_to_dataclass

    config = compose("train", [f"rollout_correction={name}"]).algorithm
    assert config.rollout_correction.bypass_mode is False  # as chosen, although the hardware is a CPU
    correction = omega_conf_to_dataclass(config, dataclass_type=AlgoConfig).rollout_correction
    old = torch.full((2, 3), -1.0)
    data = DataProto.from_single_dict(
        {
            "old_log_probs": old,
            "rollout_log_probs": old - torch.tensor(RATIOS).log(),
            "response_mask": torch.ones(2, 3),
        }
    )
    corrected, _ = compute_rollout_correction_and_add_to_batch(data, correction)
    if name == "geo_rs":
        assert corrected.batch["response_mask"].sum(1).tolist() == [0.0, 3.0]
    else:
        torch.testing.assert_close(corrected.batch["rollout_is_weights"], torch.tensor(WEIGHTS[name]))


def test_hardware_chooses_the_correction_unless_one_is_named():
    bypass = [
        compose("train", [*named, f"hardware={hardware}"]).algorithm.rollout_correction.bypass_mode
        for hardware in ("cpu", "gpu4")
        for named in ([], ["rollout_correction=bypass"], ["rollout_correction=token_is"])
    ]
    assert bypass == [True, True, False, False, True, False]
