"""The Ray of one run: what it starts, where it listens, what its workers inherit."""

import json
import subprocess
import sys

import pytest

STARTED = """
import json, os, sys
import psutil
from segzero.training.cluster import start_ray, stop_ray
from segzero.training.config import compose
from segzero.training.launch import prepare_environment

config = compose("train", [f"trainer.default_local_dir={sys.argv[1]}"])
prepare_environment(config)
start_ray(config)
import ray  # not before the environment is prepared: Ray then reads where to listen

@ray.remote(num_cpus=0)
def environment():
    return os.environ["VERL_PLATFORM"]

inherited = ray.get(environment.remote())
processes = [(child, " ".join(child.cmdline())) for child in psutil.Process().children(recursive=True)]
listening = [
    connection.laddr.ip
    for child, _ in processes
    for connection in child.net_connections(kind="inet")
    if connection.status == psutil.CONN_LISTEN
]
stop_ray()
names = [line for _, line in processes]
print(json.dumps({"inherited": inherited, "processes": names, "listening": sorted(set(listening))}))
"""


@pytest.mark.slow
def test_ray_of_one_run(tmp_path):
    done = subprocess.run([sys.executable, "-c", STARTED, tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ray = json.loads(done.stdout.splitlines()[-1])
    assert ray["inherited"] == "cpu"
    assert {address.removeprefix("::ffff:") for address in ray["listening"]} == {"127.0.0.1"}
    assert any("raylet" in line for line in ray["processes"])
    for spared in ("autoscaler/_private/monitor.py", "log_monitor.py", "dashboard/dashboard.py"):
        assert not any(spared in line for line in ray["processes"]), ray["processes"]


def test_garbage_is_collected_rarely_until_the_libraries_are_there():
    """In a process of its own: what is there by then stays frozen."""
    code = """
import gc
usual = gc.get_threshold()
from segzero.training import collector
assert gc.get_threshold()[0] > 10 * usual[0] and gc.isenabled()
collector.collect_as_usual()
assert gc.get_threshold() == usual and gc.get_freeze_count() > 1000
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
