"""A Docker engine that answers: the one that is there, else one the lab installs and starts.

Only an engine the lab started itself is ever stopped by it; a note in /run says which process that is (a note there
does not outlive the machine's boot, nor does the process).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import docker
from docker.errors import DockerException

from .progress import LabError, tail, tail_of

NOTE = Path("/run/chefha-lab-engine.json")
LOG = Path("/var/log/chefha-lab-dockerd.log")
START_TIMEOUT = 60.0
INSTALL_TIMEOUT = 600.0


def answering(timeout: float = 600.0) -> docker.DockerClient | None:
    """Return a client of the engine that answers, or None. `timeout` (s) is that of each later request."""
    try:
        client = docker.from_env(timeout=int(timeout))
        client.ping()
    except DockerException:
        return None
    return client


def connect() -> docker.DockerClient:
    """Return a client of a running engine; LabError where none answers."""
    client = answering()
    if client is None:
        raise LabError("no Docker engine answers: `python -m lab up` installs and starts one")
    return client


def ensure() -> docker.DockerClient:
    """Return a client, having installed and started an engine if none answered. Needs root for that."""
    client = answering()
    if client is not None:
        return client
    if os.geteuid() != 0:
        raise LabError("no Docker engine answers, and installing or starting one needs root")
    if shutil.which("dockerd") is None:
        install(["docker.io", "iptables"])
    if booted_with_systemd():
        _run(["systemctl", "start", "docker"], 120)
        _note({"unit": "docker"})
    else:
        _start_by_hand()
    return _await_answer()


def install(packages: list[str]) -> None:
    """Install Debian packages on this host; LabError with the end of apt's words if that fails."""
    _run(["apt-get", "update"], INSTALL_TIMEOUT)
    _run(["apt-get", "install", "-y", "--no-install-recommends", *packages], INSTALL_TIMEOUT)


def booted_with_systemd() -> bool:
    """systemd's own test (sd_booted): the folder exists only where systemd is PID 1."""
    return Path("/run/systemd/system").is_dir()


def stop_if_ours() -> str:
    """Stop the engine if the lab started it; return in words what was done."""
    try:
        note = json.loads(NOTE.read_text())
    except FileNotFoundError:
        return "the engine was not started by the lab: left running"
    if "unit" in note:
        _run(["systemctl", "stop", "docker.socket", "docker"], 120)
        done = "stopped the engine (systemctl stop docker)"
    else:
        done = _stop_by_hand(int(note["pid"]), str(note["started"]))
    NOTE.unlink(missing_ok=True)
    return done


def _start_by_hand() -> None:
    """Start dockerd detached. It starts a containerd of its own, and stops it again, unless one already runs."""
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            ["dockerd"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    _note({"pid": process.pid, "started": _start_time(process.pid)})


def _stop_by_hand(pid: int, started: str) -> str:
    if _start_time(pid) != started:  # the number has gone to another process: ours is long dead
        return "the engine the lab started is gone already"
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + START_TIMEOUT
    while _start_time(pid) == started:
        if time.monotonic() > deadline:
            raise LabError(f"dockerd ({pid}) did not stop within {START_TIMEOUT:.0f} s\n{tail_of(LOG)}")
        time.sleep(0.2)
    return f"stopped the engine (dockerd, process {pid})"


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot; empty if it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] == "Z" else fields[19]


def _await_answer() -> docker.DockerClient:
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline:
        client = answering()
        if client is not None:
            return client
        time.sleep(0.3)
    raise LabError(f"the Docker engine did not answer within {START_TIMEOUT:.0f} s\n{tail_of(LOG)}")


def _note(content: dict[str, object]) -> None:
    NOTE.write_text(json.dumps(content))


def _run(command: list[str], timeout: float) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=timeout, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)} ended with {done.returncode}\n{tail(done.stdout + done.stderr)}")
