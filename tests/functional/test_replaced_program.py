"""A program that was replaced below its process, as by a package's upgrade, told from one that was not."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from chefha_core.verbs.upgrade import replaced


def test_f56_the_kernel_says_that_a_running_program_was_replaced(tmp_path: Path) -> None:
    program, fresh = tmp_path / "service", tmp_path / "service.new"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as process:
        try:
            exe = Path(f"/proc/{process.pid}/exe")
            assert not replaced(exe)
            shutil.copy(program, fresh)
            fresh.replace(program)  # the same bytes: what counts is that it is another file
            assert replaced(exe)
        finally:
            process.terminate()
