"""Training by reinforcement: verl's GRPO trainer under Ray, rollouts on vLLM, rewards from `rewards`.

verl is an ordinary dependency, used through its plugin points. `launch.train` is the way in; each module here
is one part of a step: `dataset` -> `rollouts` (with `rewarding` and `segmenting`) -> `engine` -> `checkpoints`.
"""
