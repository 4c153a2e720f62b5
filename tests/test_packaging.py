"""Packaging: pins with hashes, one version everywhere, and a wheel that works outside the clone."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from segzero import __version__

ROOT = Path(__file__).parent.parent
LOCKS = sorted(set((ROOT / "requirements").glob("*.txt")) - {ROOT / "requirements" / "overrides.txt"})


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_pin_has_the_hashes_of_its_files(lock):
    pins = lock.read_text().replace("\\\n", " ").splitlines()
    assert pins
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==\S+ +(--hash=sha256:[0-9a-f]{64}\s*)+", pin), pin.split()[0]


def test_packages_are_built_with_the_installed_setuptools():
    [build] = _pins("build")
    assert all(build in _pins(lock) for lock in ("cpu", "cuda"))


def test_make_installs_by_hashes_alone():
    planned = subprocess.run(["make", "--dry-run", "install"], cwd=ROOT, capture_output=True, text=True, check=True)
    installs = [line for line in planned.stdout.splitlines() if "pip install" in line]
    pinned = [line for line in installs if "--require-hashes" in line]
    [rest] = [line for line in installs if line not in pinned]
    assert len(pinned) == 3 and "--offline" in rest and rest.endswith("-e .")  # SegZero itself


def _pins(name: str) -> list[str]:
    return [line.split()[0] for line in (ROOT / "requirements" / f"{name}.txt").open() if "==" in line]


def test_the_version_is_the_same_everywhere():
    options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "setup.py", "--version"], **options).stdout.split() == [__version__]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__ and citation["license"] == "Apache-2.0"
    assert f"\n## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs the clone")
def test_no_tracked_file_is_ignored():
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip(f"git lists nothing here: {listed.stderr.strip()}")
    assert listed.stdout == ""


@pytest.mark.slow
def test_the_demo_runs_from_a_wheel(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", tmp_path / "dist", ROOT]
    subprocess.run(build, check=True)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "segzero" / "py.typed").exists() and (site / "rewards" / "py.typed").exists()
    [metadata] = site.glob("segzero-*.dist-info")
    assert (metadata / "licenses" / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    stated = (metadata / "METADATA").read_text().splitlines()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE", f"Version: {__version__}"} <= set(stated)
    page = Path("segzero/serving/ui/static")
    assert {file.name for file in (site / page).iterdir()} == {file.name for file in (ROOT / page).iterdir()}

    where = "import segzero, segzero.shipped; print(segzero.__file__, segzero.shipped.policy_path());"
    where += "from segzero.shipped import config_dir, docs_dir; print(config_dir(), docs_dir());"
    where += "from segzero.evaluation.benchmarks import load_benchmarks; assert len(load_benchmarks()) > 30"
    environment = {**os.environ, "PYTHONPATH": str(site)}
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    found = subprocess.run([sys.executable, "-c", where], **options).stdout.split()
    assert all(path.startswith(str(site)) for path in found)

    command = [sys.executable, "-m", "segzero", "demo", "--scenes", "2", "--steps", "0", "--out", "pictures"]
    assert "gIoU" in subprocess.run(command, **options).stdout
    assert (tmp_path / "pictures" / "demo.png").stat().st_size > 10_000
