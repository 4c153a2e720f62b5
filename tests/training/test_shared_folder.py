"""A run whose nodes do not share its folder ends before it has trained anything."""

import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segzero.errors import UserError
from segzero.training.shared_folder import check_shared, has_content
from tests.helpers.launching import complaint, kill, start, wait


def test_nodes_that_do_not_see_the_folder_are_named(tmp_path):
    here, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def on_trainers(file: str, token: str) -> list[tuple[str, bool]]:
        other = elsewhere / Path(file).name
        return [("node-1", has_content(Path(file), token)), ("node-2", has_content(other, token, 0)), ("node-2", False)]

    with pytest.raises(UserError, match=r"^2 of 3 trainers, on node-2, do not see the run's folder .*run; set trainer"):
        check_shared(here, on_trainers)
    assert list(here.iterdir()) == []
    check_shared(here, lambda file, token: [("node-1", has_content(Path(file), token))])
    assert list(here.iterdir()) == []


def test_a_file_of_that_name_with_other_content_does_not_count(tmp_path):
    (tmp_path / "file").write_text("other")
    assert not has_content(tmp_path / "file", "token", patience=0.3)


@pytest.fixture
def two_nodes(tmp_path, monkeypatch):
    """Ray on two nodes of one machine; the second has a disk of its own where the run's folder would be."""
    ray, space = str(Path(sys.executable).with_name("ray")), ["unshare", "--map-root-user", "--mount"]
    if not shutil.which("unshare") or subprocess.run([*space, "true"], capture_output=True).returncode:
        pytest.skip("needs a mount namespace of its own")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # whether or not this machine has a token of Ray's
    run = tmp_path / "run"
    run.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    join = [ray, "start", "--num-cpus=8", "--num-gpus=1", "--object-store-memory=300000000", "--block"]
    head = [*join, "--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    other = f'mount -t tmpfs none "{run}" && exec "$0" "$@" --address={address}'
    nodes = []
    try:
        for command, there in ((head, "/1.0 GPU"), ([*space, "bash", "-c", other, *join], "/2.0 GPU")):
            nodes.append(subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL))
            end = time.monotonic() + 90
            while there not in (told := status(ray, address)):
                assert time.monotonic() < end and nodes[-1].poll() is None, told
                time.sleep(1)
        yield run, address
    finally:
        for node in reversed(nodes):
            kill(node)
            node.wait()


def status(ray: str, address: str) -> str:
    asked = [ray, "status", f"--address={address}"]
    return subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.training
def test_a_run_on_nodes_with_folders_of_their_own_is_refused(scenes, two_nodes):
    run, address = two_nodes
    process = start(
        scenes,
        run,
        "trainer.nnodes=2",
        f"+ray_kwargs.ray_init.address={address}",
        *(f"ray_kwargs.ray_init.{name}=null" for name in ("num_cpus", "num_gpus", "object_store_memory")),
    )
    output = wait(process)
    line = complaint(output)
    assert process.returncode == 2
    assert "1 of 2 trainers, on " in line and f"do not see the run's folder {run}" in line
    assert "rollout engine ready" not in output
