"""Two nodes with a GPU each (logical ones, on one machine) compute the same as one."""

import pytest

from tests.helpers.launching import TWO_STEPS, logged, start, wait

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 8, "num_gpus": 1, "object_store_memory": 300_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(**node)
    yield cluster
    cluster.shutdown()


@pytest.mark.xdist_group("finished_run")
def test_two_nodes_learn_what_one_learns(scenes, tmp_path, cluster, finished_run):
    run = tmp_path / "two"
    process = start(
        scenes,
        run,
        *TWO_STEPS,
        "trainer.nnodes=2",
        f"+ray_kwargs.ray_init.address={cluster.address}",
        *(f"ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus", "object_store_memory")),
    )
    output = wait(process)
    assert process.returncode == 0, output[-3000:]
    assert len(logged(run)) == 2
    for one, two in zip(logged(finished_run), logged(run), strict=True):
        assert one["step"] == two["step"]
        assert one["data"]["reward/std"] > 0
        for name in ("reward/mean", "actor/pg_loss", "actor/grad_norm"):
            assert two["data"][name] == pytest.approx(one["data"][name], rel=2e-3, abs=1e-5), name
