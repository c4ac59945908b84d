"""version: what runs on this member, and whether it belongs together."""

from __future__ import annotations

import platform
import subprocess

import chefha_core
from chefha_core.settings import Settings


def version(settings: Settings | None = None) -> dict[str, str]:
    """Versions of the library and of what it drives; "" for what is not installed."""
    postgres = f"{settings.pg_bin}/postgres" if settings else "postgres"
    return {
        "library": chefha_core.__version__,
        "python": platform.python_version(),
        "postgresql": _last_word([postgres, "--version"]),
        "etcd": _last_word(["/usr/bin/etcd", "--version"]),
    }


def _last_word(command: list[str]) -> str:
    """The version in the first line a program prints: `postgres (PostgreSQL) 17.2 (Debian …)`."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    words = (done.stdout.splitlines() or [""])[0].split("(Debian")[0].split()
    return words[-1] if words else ""
