"""Names of algorithms that a run may ask for; verl's registries are read without importing verl, which is slow."""

import ast
from functools import lru_cache

from omegaconf import DictConfig, OmegaConf

from segzero.errors import UserError, unknown_name
from segzero.training.config import engine_package

# Estimators that need what this trainer does not have -> what that is.
UNSUPPORTED = {
    "gae": "a critic",
    "remax": "a greedy answer to each prompt as baseline",
    "gdpo": "each reward term as a batch of its own",
    "optimal_token_baseline": "the sum of squared probabilities of every token",
    "tir_optimal_token_baseline": "the sum of squared probabilities of every token",
}
KL = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
STRATEGIES = ("fsdp", "fsdp2")
SCHEDULES = ("constant", "cosine")
AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def check_names(config: DictConfig) -> None:
    """Refuse a name that verl would look up in vain once the first answers are written."""
    estimator = str(config.algorithm.adv_estimator)
    if estimator in UNSUPPORTED:
        raise UserError(
            f"algorithm.adv_estimator={estimator} needs {UNSUPPORTED[estimator]}, which this trainer does not have; "
            f"choose grpo, rloo, opo, reinforce_plus_plus, ..."
        )
    known = registered("register_adv_est")
    choices = {
        "algorithm.adv_estimator": [name for name in known if name not in UNSUPPORTED],
        "actor_rollout_ref.actor.policy_loss.loss_mode": registered("register_policy_loss"),
        "algorithm.kl_penalty": [name + plus for name in KL for plus in ("", "+")],
        "actor_rollout_ref.actor.kl_loss_type": [name + plus for name in KL for plus in ("", "+")],
        "actor_rollout_ref.actor.loss_agg_mode": AGGREGATIONS,
        "actor_rollout_ref.actor.strategy": STRATEGIES,
        "actor_rollout_ref.actor.optim.lr_scheduler_type": SCHEDULES,
        "actor_rollout_ref.rollout.name": ["vllm"],
    }
    for key, names in choices.items():
        value = str(OmegaConf.select(config, key))
        if value not in names:
            raise UserError(f"{key}: {unknown_name(key.split('.')[-1], value, list(names))}")


@lru_cache(maxsize=4)
def registered(decorator: str) -> list[str]:
    """Every name that a function of verl's core_algos is registered under with that decorator."""
    tree = ast.parse((engine_package() / "trainer" / "ppo" / "core_algos.py").read_text(encoding="utf-8"))
    members = {
        f"{enum.name}.{node.targets[0].id}": node.value.value
        for enum in tree.body
        if isinstance(enum, ast.ClassDef)
        for node in enum.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    found = []
    for function in tree.body:
        for call in function.decorator_list if isinstance(function, ast.FunctionDef) else ():
            if isinstance(call, ast.Call) and ast.unparse(call.func) == decorator:
                name = call.args[0]
                found.append(name.value if isinstance(name, ast.Constant) else members[ast.unparse(name)])
    return sorted(map(str, found))
