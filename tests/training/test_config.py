"""Composing a configuration refuses unknown names, values of the wrong kind, and keys without effect."""

import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from segzero.errors import UserError
from segzero.training.config import WITHOUT_EFFECT, compose, leaves


@pytest.fixture(scope="module")
def base():
    return compose()


def test_the_smallest_run_needs_no_choices(base):
    assert base.trainer.device == "cpu"
    assert base.data.custom_cls.name == "SampleDataset"
    assert base.reward.name == "vision_reasoner"


def test_code_of_a_checkpoint_is_not_trusted_by_default(base):
    keys = [key for key in leaves(base) if key.endswith("trust_remote_code")]
    assert "actor_rollout_ref.model.trust_remote_code" in keys
    assert not any(OmegaConf.select(base, key) for key in keys)


def test_every_key_without_effect_exists(base):
    known = leaves(base)
    for key in WITHOUT_EFFECT:
        assert key in known or any(leaf.startswith(key) and key.endswith(".") for leaf in known), key


def test_keys_that_only_verls_classes_name_are_accepted():
    actor = "actor_rollout_ref.actor.fsdp_config.mixed_precision"
    config = compose(
        "train", ["hardware=gpu4", f"{actor}.param_dtype=fp16", "+actor_rollout_ref.model.target_parameters=[a]"]
    )
    assert config.actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype == "fp16"
    assert list(config.actor_rollout_ref.model.target_parameters) == ["a"]
    key = "actor_rollout_ref.actor.checkpoint.save_lora_only"
    assert compose("train", [f"{key}=true"]).actor_rollout_ref.actor.checkpoint.save_lora_only is True


def test_values_of_other_kinds_than_the_default_where_they_make_sense():
    config = compose(
        "train",
        [
            "data.frame=stretch(112)",
            "data.train_files=[a.parquet,b.parquet]",
            "actor_rollout_ref.actor.entropy_coeff=0.001",
            "segzero.segmenter.path=null",
            "+actor_rollout_ref.rollout.engine_kwargs.vllm.seed=1",
        ],
    )
    assert config.data.frame == "stretch(112)"
    assert list(config.data.train_files) == ["a.parquet", "b.parquet"]
    assert config.actor_rollout_ref.actor.entropy_coeff == 0.001


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor_rollout_ref.actor.lr=3", "unknown key .* did you mean 'actor_rollout_ref.actor.optim.lr'"),
        ("actor.optim.lr=3", "did you mean 'actor_rollout_ref.actor.optim.lr'"),
        ("trainer.resume_mode=auto", "no effect; use segzero.resume"),
        ("actor_rollout_ref.actor.use_prefix_grouper=true", "no effect; use nothing; the prefix is shared"),
        ("algorithm.filter_groups.max_inflight_gen_batches=2", "no effect; use nothing; each dropped group"),
        ("actor_rollout_ref.rollout.multi_turn.enable=true", "no effect; use data=dialogues"),
        ("actor_rollout_ref.rollout.agent.default_agent_loop=x", "no effect; use nothing; segzero.training.rollouts"),
        ("actor_rollout_ref.model.lora.rank=8", "no effect; use actor_rollout_ref.model.lora_rank"),
        ("critic.enable=true", "no effect; use nothing; this trainer has no critic"),
        ("distillation.enabled=true", "no effect; use nothing; this trainer has no teacher"),
        ("reward.reward_model.enable=true", "no effect; use reward.name"),
        ("trainer.v1.separate_async.parameter_sync_step=2", "use segzero.one_step_off"),
        ("+actor_rollout_ref.actor.fsdp_config.mixed=2", "nothing reads the key"),
        ("+trainer.speed=2", "nothing reads the key 'trainer.speed'"),
        ("~trainer.logger", "can't be taken away; set it to null"),
        ("reward=best", "there is no reward 'best'; there are: candidate, custom, dialogue, dr2seg, dr_seg"),
        ("model=../tiny", "there is no model '../tiny'; there are: qwen2_5_vl_3b"),
        ("trainer.v1.trainer_mode=separate_async", "segzero.one_step_off=true"),
        ("data.train_batch_size=many", "data.train_batch_size=many: it must be a number"),
        ("actor_rollout_ref.actor.use_dynamic_bsz=1", "it must be true or false"),
        ("trainer=3", "trainer=3: it must be a section"),
        ("trainer=null", "trainer=null: it must be a section"),
        ("data.seed=1,2", "one run has one value for a key"),
        ("fast", "fast: write key=value"),
        ("data.train_batch_size=[1", "configuration: "),
    ],
)
def test_mistakes_are_one_line(override, message):
    with pytest.raises(UserError, match=message) as caught:
        compose("train", [override])
    assert "\n" not in str(caught.value)


def test_an_unknown_configuration_lists_the_known():
    with pytest.raises(UserError, match="there is no configuration 'trian'; there are: train"):
        compose("trian")


def test_the_launch_imports_nothing_that_reads_the_environment_first():
    """It sets TQDM_DISABLE and more, which tqdm, torch and Ray read when they are imported."""
    program = (
        "import sys, segzero.training.launch; print(sorted({'tqdm', 'torch', 'ray', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
