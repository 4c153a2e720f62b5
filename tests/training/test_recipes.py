"""Recipes: what each file promises, what stands above it, and that each trains on the tiny policy."""

import re
import shlex

import pytest
from omegaconf import OmegaConf

from segzero import shipped
from segzero.data.parquet import to_parquet
from segzero.errors import UserError
from segzero.shipped import config_dir
from segzero.tiny.dialogues import make_dialogues
from segzero.training.config import compose
from segzero.training.launch import train
from tests.helpers.launching import SCRIPTS, logged, overrides_of, write_one_object_scenes
from tests.helpers.many_runs import Runs

RECIPES = sorted(path.stem for path in config_dir().glob("recipe/*.yaml") if path.stem != "none")

# What a launcher spelt out before there were recipes: its group choices and keys, beside those that it has now.
SEG_ZERO = ["reward=seg_zero_strict", "data.frame='stretch(840)'", "data.prompt=seg_zero"]
VISION_REASONER = [
    *("data=visionreasoner_7k", "reward=vision_reasoner", "data.frame='stretch(840)'", "data.prompt=vision_reasoner"),
    "actor_rollout_ref.actor.kl_loss_coef=0.01",
]
SPELT_OUT = {
    "run_qwen2_5_3b_1gpu": SEG_ZERO,
    "run_qwen2_5_3b_refCOCOg": [*SEG_ZERO, "data.max_response_length=1300"],
    "run_qwen2_5_7b_refCOCOg": [*SEG_ZERO, "data=refcocog_9k", "data.max_response_length=1300"],
} | {path.stem: VISION_REASONER for path in SCRIPTS.glob("run_visionreasoner_7b*.sh")}


@pytest.mark.parametrize("launcher", SPELT_OUT)
def test_a_launcher_is_the_use_of_a_recipe(launcher):
    """It gives the configuration that it gave without one."""
    words = overrides_of(launcher)
    without = [word for word in words if not word.startswith("recipe=")]
    assert len(without) == len(words) - 1
    assert compose("train", words) == compose("train", [*SPELT_OUT[launcher], *without])


def comment_of(recipe: str) -> str:
    """The comment that opens a recipe's file."""
    lines = (config_dir() / "recipe" / f"{recipe}.yaml").read_text().splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines[1:] if line.startswith("#"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_opens_with_source_needs_launch_figures_and_departures(recipe):
    comment = comment_of(recipe)
    assert re.search(r"\((\d{4}\.\d{5}|github|ICLR|2026)", comment.splitlines()[0])
    assert "Needs: " in comment and "Published" in comment
    numbers = [
        int(number) for number in re.findall(r"^(\d+)\. ", comment.partition("departs from the paper:")[2], re.M)
    ]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers
    launches = [line for line in comment.splitlines() if "segzero train" in line]
    for line in launches:
        overrides = shlex.split(line.partition("segzero train")[2])
        assert overrides[0] == f"recipe={recipe}"
        assert compose("train", overrides).trainer.experiment_name == recipe
    assert len(launches) == 2  # for GPUs, and for a laptop


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_chooses_neither_model_nor_hardware(recipe):
    chosen = [f"recipe={recipe}", "hardware=gpu4", "model=qwen2_5_vl_7b"]
    found, plain = compose("train", chosen), compose("train", chosen[1:])
    for key in ("actor_rollout_ref.model.path", "trainer.n_gpus_per_node", "trainer.nnodes", "trainer.device"):
        assert OmegaConf.select(found, key) == OmegaConf.select(plain, key)
    rollout = "actor_rollout_ref.rollout"
    for key in ("tensor_model_parallel_size", "gpu_memory_utilization"):
        assert OmegaConf.select(found, f"{rollout}.{key}") == OmegaConf.select(plain, f"{rollout}.{key}")


def test_the_users_choices_win_over_a_recipes():
    config = compose("train", ["recipe=sam_veteran", "algo=rloo", "reward=soft", "data=scenes", "hardware=gpu1"])
    assert config.algorithm.adv_estimator == "rloo" and config.algorithm.filter_groups.enable
    assert config.reward.name == "soft" and "scenes" in config.data.train_files
    assert compose("train", ["recipe=sam_veteran"]).algorithm.adv_estimator == "reinforce_plus_plus_baseline"
    star = ["recipe=star", "model=qwen3_vl_4b"]
    ranks = [
        compose("train", [*star, f"hardware={name}"]).actor_rollout_ref.model.lora_rank for name in ("gpu8", "gpu1")
    ]
    assert ranks == [64, 32]  # what a card of 24 GB holds is its preset's to say
    assert compose("train", [*star, "actor_rollout_ref.model.lora_rank=8"]).actor_rollout_ref.model.lora_rank == 8


def test_the_tiny_model_keeps_what_it_was_taught():
    config = compose("train", ["recipe=vision_reasoner", "model=tiny"])
    assert (config.data.frame, config.data.prompt) == (None, None)
    assert config.actor_rollout_ref.actor.optim.lr == 1.5e-4


def test_an_unknown_recipe_or_algorithm_lists_the_known():
    with pytest.raises(UserError, match="there is no recipe 'stars'; there are: dr2seg, dr_seg"):
        compose("train", ["recipe=stars"])
    with pytest.raises(UserError, match="there is no algo 'ppo'; there are: cispo, clip_cov, dapo"):
        compose("train", ["algo=ppo"])


# Dry runs and trainings

# Each recipe with an algorithm beside its own, so that as many runs train every algorithm too.
ALGORITHMS = {
    "seg_zero": "grpo",
    "vision_reasoner": "dr_grpo",
    "dr_seg": "gspo",
    "star": "dapo",
    "swim": "cispo",
    "genseg_r1": "sapo",
    "lens": "rloo",
    "dr2seg": "clip_cov",
    "region_reasoner": "grpo",
    "sam_veteran": "reinforce_plus_plus_baseline",
}
SMALL = [
    *("model=tiny", "hardware=cpu", "data.train_batch_size=4", "actor_rollout_ref.rollout.n=4"),
    *("trainer.total_training_steps=2", "trainer.val_before_train=false", "trainer.test_freq=-1"),
    *("trainer.save_freq=-1", "segzero.stall_minutes=8"),
]


def test_every_recipe_and_every_algorithm_is_trained():
    assert sorted(ALGORITHMS) == RECIPES
    assert set(ALGORITHMS.values()) == {path.stem for path in config_dir().glob("algo/*.yaml")}


@pytest.fixture(scope="module")
def folders(scenes, tmp_path_factory):
    """Data of each kind: scenes, those with one object each, and dialogues."""
    single, dialogues = tmp_path_factory.mktemp("single"), tmp_path_factory.mktemp("dialogues")
    write_one_object_scenes(single, 40)
    for split in ("train", "val"):
        to_parquet(make_dialogues(8, 5), dialogues / f"{split}.parquet")
    return {"seg_zero": single, "region_reasoner": dialogues} | dict.fromkeys(
        [recipe for recipe in RECIPES if recipe not in ("seg_zero", "region_reasoner")], scenes
    )


def choices(recipe: str, folder) -> list[str]:
    """A recipe on the tiny model, small; the tiny model's own prompt asks for several objects."""
    files = [f"data.{split}_files={folder / f'{split}.parquet'}" for split in ("train", "val")]
    prompt = ["data.prompt=seg_zero"] if recipe == "seg_zero" else []
    return [f"recipe={recipe}", f"algo={ALGORITHMS[recipe]}", *SMALL, *files, *prompt]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_passes_a_dry_run(recipe, folders, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MODEL_PATH", str(shipped.policy_path()))
    monkeypatch.setenv("SEGMENTER_PATH", str(shipped.segmenter_path()))
    own = [word for word in choices(recipe, folders[recipe]) if not word.startswith("algo=")]
    train("train", [*own, "dry_run=true", f"trainer.default_local_dir={tmp_path / 'run'}"])
    output = capsys.readouterr().out
    name = compose("train", own).reward.name
    assert f"reward   {name}; " in output and output.count("this answer earns") == 2
    earned, highest = map(float, re.search(r"the truth itself earns ([\d.]+) of ([\d.]+)", output).groups())
    assert earned > 0.9 * highest
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """The runs of all recipes, one after the other in a process that keeps what it imports."""
    folder = tmp_path_factory.mktemp("recipes")
    started = Runs(folder, {recipe: choices(recipe, folders[recipe]) for recipe in RECIPES})
    yield started
    started.end()


@pytest.mark.training
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_two_steps_on_the_tiny_policy(recipe, runs):
    """With an algorithm of its own or another: `ALGORITHMS`."""
    output = runs.wait(recipe)
    rows = logged(runs.folder / recipe)
    assert [row["step"] for row in rows] == [1, 2], output[-3000:]
    for row in (each["data"] for each in rows):
        assert row["actor/grad_norm"] >= 0 and abs(row["actor/pg_loss"]) < 100
        assert row["training/rollout_probs_diff_mean"] < 1e-3
    flat = max(row["data"]["reward/flat_groups"] for row in rows)
    assert flat == 1.0 or max(row["data"]["actor/grad_norm"] for row in rows) > 0
    assert ("reward/overlong/mean" in rows[0]["data"]) == (ALGORITHMS[recipe] == "dapo")
