"""Two nodes with a GPU each (logical ones, on one machine) compute the same as one."""

import pytest

from tests.helpers.launching import logged, start, wait

pytestmark = pytest.mark.training

# The likeliest token always: both runs then learn from the same answers. As those of a group are all alike, the
# advantages come from an estimator that compares over the whole batch.
ALIKE = ["actor_rollout_ref.rollout.top_k=1", "algorithm.adv_estimator=reinforce_plus_plus"]
STEPS = 2


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 8, "num_gpus": 1, "object_store_memory": 300_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


def test_two_nodes_learn_what_one_learns(scenes, tmp_path, cluster):
    two = start(
        scenes,
        tmp_path / "two",
        *ALIKE,
        f"trainer.total_training_steps={STEPS}",
        "trainer.nnodes=2",
        f"+ray_kwargs.ray_init.address={cluster.address}",
        *(f"ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus", "object_store_memory")),
    )
    output = wait(two)
    assert two.returncode == 0, output[-3000:]
    one = start(scenes, tmp_path / "one", *ALIKE, f"trainer.total_training_steps={STEPS}")
    output = wait(one)
    assert one.returncode == 0, output[-3000:]
    for first, second in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert first["step"] == second["step"]
        assert first["data"]["reward/std"] > 0
        for name in ("reward/mean", "actor/pg_loss", "actor/grad_norm"):
            assert second["data"][name] == pytest.approx(first["data"][name], rel=2e-3, abs=1e-5), name
