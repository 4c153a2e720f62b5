"""Every shipped configuration resolves, and what has no effect is refused."""

from itertools import zip_longest

import pytest

from segzero.data.sample import to_parquet
from segzero.errors import UserError
from segzero.training import plan
from segzero.training.config import WITHOUT_EFFECT, compose, config_dir, leaves
from segzero.training.launch import settle, train


def names(group: str) -> list[str]:
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


@pytest.fixture(scope="module")
def base():
    return compose()


@pytest.mark.parametrize(
    ("model", "hardware"), [*((m, "gpu8") for m in names("model")), *(("qwen2_5_vl_7b", h) for h in names("hardware"))]
)
def test_every_model_and_every_hardware(model, hardware):
    config = compose("train", [f"model={model}", f"hardware={hardware}"])
    plan._check_batch(plan.batch_of(config))
    assert "???" not in str(config.actor_rollout_ref)


@pytest.mark.parametrize(("data", "reward"), zip_longest(names("data"), names("reward"), fillvalue="soft"))
def test_every_data_and_every_reward(data, reward):
    data = data if data in names("data") else "scenes"
    config = compose(
        "train", [f"data={data}", f"reward={reward}", *(["reward.name=a.b"] if reward == "custom" else [])]
    )
    assert config.data.custom_cls.name == "SampleDataset"
    assert config.reward.name


def test_every_key_without_effect_exists(base):
    assert set(WITHOUT_EFFECT) <= {*leaves(base), "actor_rollout_ref.rollout.agent.agent_loop_manager_class"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["actor_rollout_ref.actor.lr=3"], "did you mean 'actor_rollout_ref.actor.optim.lr'"),
        (["actor.optim.lr=3"], "did you mean 'actor_rollout_ref.actor.optim.lr'"),
        (["trainer.resume_mode=auto"], "no effect; use segzero.resume"),
        (["actor_rollout_ref.actor.use_prefix_grouper=true"], "no effect; use nothing; the prefix is shared"),
        (["+trainer.speed=2"], "nothing reads the key 'trainer.speed'"),
        (["reward=best"], "there is no reward 'best'; there are: custom, mask"),
        (["trainer.v1.trainer_mode=separate_async"], "only sync is supported"),
        (["data.train_batch_size="], "data.train_batch_size=: it must be a whole number"),
    ],
)
def test_mistakes_are_one_line(overrides, said):
    with pytest.raises(UserError, match=said) as caught:
        plan._check_batch(plan.batch_of(compose("train", overrides)))
    assert "\n" not in str(caught.value)


def test_an_unknown_configuration_lists_the_known():
    with pytest.raises(UserError, match="there is no configuration 'trian'; there are: train"):
        compose("trian")


@pytest.fixture
def data(samples, tmp_path):
    file = to_parquet(samples, tmp_path / "samples.parquet")
    return [f"data.train_files={file}", f"data.val_files={file}", f"trainer.default_local_dir={tmp_path / 'run'}"]


def test_a_plan_explains_the_run(data, policy, capsys):
    train("train", [*data, f"actor_rollout_ref.model.path={policy}", "dry_run=true"])
    said = capsys.readouterr().out
    assert "16 prompts x 8 answers = 128 a step, 1 update of 128" in said
    assert "truth in the policy's numbers: [[" in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("actor_rollout_ref.actor.ppo_mini_batch_size=7", "no multiple of"),
        ("actor_rollout_ref.rollout.n=1", "use 2 or more"),
        ("trainer.n_gpus_per_node=3", "does not divide among 3 GPUs"),
        ("actor_rollout_ref.rollout.tensor_model_parallel_size=2", "do not divide into replicas"),
        ("actor_rollout_ref.rollout.max_model_len=100", "make it"),
        ("data.max_response_length=9999999", "make it|more than"),
        ("data.train_files=gone.parquet", "no such data: gone.parquet"),
        ("reward.name=mask2", "did you mean 'mask'"),
        ("segzero.segmenter.path=null", "reward=mask needs a segmenter"),
    ],
)
def test_a_plan_refuses_what_would_fail_later(data, policy, override, said):
    with pytest.raises(UserError, match=said):
        plan.check(settle(compose("train", [f"actor_rollout_ref.model.path={policy}", "reward=mask", *data, override])))
