"""The probe of the disks on real file systems: full, read-only, and one whose writes hang until it is thawed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from chefha_core.parts.disks import DiskProbe, ProbeBroken

MIB = 1 << 20


def run(*command: object) -> None:
    """A command that must succeed."""
    subprocess.run([str(word) for word in command], check=True, timeout=30, capture_output=True)


def close_and_wait(probe: DiskProbe) -> None:
    """Until its program has ended: whoever unmounts its file system earlier finds it busy. Hangs if it goes on."""
    pid = probe.pid
    probe.close()
    if pid:
        with contextlib.suppress(ChildProcessError):  # Popen was quicker and has taken its exit status
            os.waitpid(pid, 0)


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system of 32 MiB with a data directory in it."""
    image, at = tmp_path / "image", tmp_path / "small"
    with image.open("wb") as opened:
        opened.truncate(32 * MIB)
    at.mkdir()
    run("mkfs.ext4", "-q", "-m", "0", image)
    run("mount", "-o", "loop", image, at)
    try:
        (at / "pg" / "data" / "pg_wal").mkdir(parents=True)
        yield at
    finally:
        run("umount", at)


@pytest.fixture
def probe(small: Path) -> Iterator[DiskProbe]:
    """Of that data directory."""
    made = DiskProbe(str(small / "pg" / "data"))
    yield made
    close_and_wait(made)


def test_a_good_disk(probe: DiskProbe, small: Path) -> None:
    for _ in range(3):
        [disk] = probe.ask(10.0).disks
        assert (disk.folder, disk.problem) == (str(small / "pg"), "")
        assert 10 * MIB < disk.free < 32 * MIB and disk.seconds < 5
    assert sorted(path.name for path in (small / "pg").iterdir()) == ["data"], "nothing is left behind"


def test_a_log_on_a_disk_of_its_own_is_written_to_as_well(tmp_path: Path, small: Path) -> None:
    data = tmp_path / "pg" / "data"
    data.mkdir(parents=True)
    (data / "pg_wal").symlink_to(small / "pg" / "data" / "pg_wal")
    probe = DiskProbe(str(data))
    assert [disk.folder for disk in probe.ask(10.0).disks] == [str(tmp_path / "pg"), str(small / "pg" / "data")]
    probe.close()


def test_f17_a_full_disk(probe: DiskProbe, small: Path) -> None:
    filler = small / "filler"
    with pytest.raises(OSError), filler.open("wb", buffering=0) as opened:
        while True:
            opened.write(b"x" * MIB)
    [disk] = probe.ask(10.0).disks
    assert disk.problem == "No space left on device" or disk.free < MIB
    filler.unlink()
    [disk] = probe.ask(10.0).disks
    assert (disk.problem, disk.free > 10 * MIB) == ("", True)


def test_f18_a_disk_that_turned_read_only(probe: DiskProbe, small: Path) -> None:
    run("mount", "-o", "remount,ro", small)
    [disk] = probe.ask(10.0).disks
    assert disk.problem == "Read-only file system"


def test_f18_a_disk_that_hangs_hangs_nobody_else(probe: DiskProbe, small: Path) -> None:
    probe.ask(10.0)
    pid = probe.pid
    run("fsfreeze", "-f", small)
    try:
        for _ in range(3):
            assert probe.ask(0.5).hangs == str(small / "pg")
        assert probe.pid == pid, "it is neither killed nor doubled"
    finally:
        run("fsfreeze", "-u", small)
    [late] = probe.ask(10.0).disks
    assert late.seconds >= 1.4 and late.problem == ""
    [disk] = probe.ask(10.0).disks
    assert disk.seconds < 1.4


def test_a_probe_that_was_killed_is_started_again(probe: DiskProbe) -> None:
    probe.ask(10.0)
    pid = probe.pid
    os.kill(pid, signal.SIGSTOP)
    assert probe.ask(0.3).hangs
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert probe.ask(10.0).disks and probe.pid != pid


def test_a_probe_that_cannot_run_says_nothing_about_the_disks() -> None:
    with pytest.raises(ProbeBroken, match="does not start"):
        DiskProbe("/", ["/nowhere/python"]).ask(1.0)
    with pytest.raises(ProbeBroken, match="has ended"):
        DiskProbe("/", ["sh", "-c", "read line"]).ask(5.0)


def test_it_ends_when_nobody_asks_any_more(probe: DiskProbe) -> None:
    probe.ask(10.0)
    assert probe.pid
    close_and_wait(probe)
