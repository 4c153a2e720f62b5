"""An installed wheel works outside the clone: its weights are found where they were installed."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "segzero" / "py.typed").exists() and (site / "rewards" / "py.typed").exists()
    page = Path("segzero/serving/ui/static")
    assert {file.name for file in (site / page).iterdir()} == {file.name for file in (ROOT / page).iterdir()}

    where = "import segzero, segzero.tiny; print(segzero.__file__, segzero.tiny.policy_path());"
    where += "from segzero.files import config_dir; print(config_dir());"
    where += "from segzero.evaluation.benchmarks import load_benchmarks; assert len(load_benchmarks()) > 30"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    found = subprocess.run([sys.executable, "-c", where], **options).stdout.split()
    assert all(path.startswith(str(site)) for path in found)

    command = [sys.executable, "-m", "segzero", "demo", "--scenes", "2", "--steps", "0", "--out", "pictures"]
    assert "gIoU" in subprocess.run(command, **options).stdout
    assert (tmp_path / "pictures" / "demo.png").stat().st_size > 10_000
