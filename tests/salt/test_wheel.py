"""One wheel carries everything: library, loader modules, leaderl and chef-backend-ctl."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tests.salt.playground import REPOSITORY

CARRIED = (
    "chefha_core/leaderl/main.py",
    "saltext/chefha/modules/chefha.py",
    "saltext/chefha/states/chefha.py",
    "saltext/chefha/beacons/chefha_leader.py",
    "saltext/chefha/runners/chefha.py",
    "saltext/chefha/pillar/chefha_secrets.py",
)
ENTRIES = ("saltext.chefha = saltext.chefha", "leaderl = chefha_core", "chef-backend-ctl = chefha_core")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing is left in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    left_out = shutil.ignore_patterns(".*", "lab", "tests", "bench", "*.egg-info", "build")
    shutil.copytree(REPOSITORY, folder / "copy", symlinks=True, ignore=left_out)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(folder), str(folder / "copy")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [path] = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_carries_library_and_loader_modules(wheel: zipfile.ZipFile) -> None:
    assert set(CARRIED) <= set(wheel.namelist())


def test_wheel_has_the_entry_points(wheel: zipfile.ZipFile) -> None:
    [name] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    text = wheel.read(name).decode()
    for entry in ENTRIES:
        assert entry in text


def test_a_master_finds_the_runner_and_the_ext_pillar_in_the_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    """Nothing has to be synced where the wheel is in the master's Python."""
    installed = tmp_path / "installed"
    wheel.extractall(installed)
    program = (
        "import sys, salt.config, salt.loader\n"
        "opts = salt.config.master_config(None); opts['extension_modules'] = opts['cachedir'] = sys.argv[1]\n"
        "runner = salt.loader.runner(opts)['chefha.secrets']\n"
        "pillar = salt.loader.pillars(opts, {})['chefha_secrets']\n"
        "print(runner.__globals__['__file__'], pillar.__globals__['__file__'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "cache")],
        env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.stdout.count(f"{installed}/saltext/chefha/") == 2, done.stdout + done.stderr


@pytest.mark.parametrize(
    "link", [f"{place}{kind}" for kind in ("modules", "states", "beacons", "runners", "pillar")
             for place in ("salt/_", "src/saltext/chefha/")]
)  # fmt: skip
def test_loader_folders_are_links_to_the_one_real_folder(link: str) -> None:
    """A checkout that lost its links (a zip, a file system without them) serves no modules to any minion."""
    assert (REPOSITORY / link).resolve() == REPOSITORY / f"_{Path(link).name.lstrip('_')}"
