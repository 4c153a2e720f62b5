"""Training by reinforcement: verl's GRPO trainer under Ray, rollouts on vLLM, rewards from `rewards`.

verl is an ordinary dependency, used through its plugin points. `launch.train` is the entry; the docstring of `trainer`
lists the parts of one step.
"""
