"""python -m bench.shell: what chef-backend-ctl takes on a back end of the lab that is up; nothing is changed.

Warm: 20 runs one after the other. Cold: before each run the kernel forgets what it has cached of Salt's Python's files,
as after a boot; the services stay warm.
"""

from __future__ import annotations

import json
import statistics
import sys
from datetime import datetime

from lab.api import Lab, LabError
from lab.deploy import PYTHON
from lab.topology import BACKENDS

from .report import store
from .surroundings import machine

RUNS = 20
VERBS = ("cluster-status", "status", "status --simple", "version")
SCRIPT = f"""
import json, os, pathlib, subprocess, sys, time
FILES = [path for path in pathlib.Path("{PYTHON}").parents[1].rglob("*") if path.is_file()]
def forget():
    for path in FILES:
        number = os.open(path, os.O_RDONLY)
        os.posix_fadvise(number, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(number)
rows = []
for verb in sys.argv[1:]:
    for how in ("warm", "cold"):
        times = []
        for _ in range({RUNS}):
            if how == "cold":
                forget()
            began = time.perf_counter()
            subprocess.run(["chef-backend-ctl", *verb.split()], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - began)
        rows.append([verb, how, times])
print(json.dumps(rows))
"""


def main() -> int:
    """Print the table, all numbers in bench/results; 1 if there is no lab, or a verb failed."""
    print(f"chef-backend-ctl on {BACKENDS[0].name}, {RUNS} runs each, seconds: min / median / max", flush=True)
    began = datetime.now().astimezone()
    try:
        head = {"command": "python -m bench.shell", "machine": machine()}
        code, text = Lab(quiet=True).exec(BACKENDS[0].name, [PYTHON, "-c", SCRIPT, *VERBS], timeout=600)
    except LabError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if code:
        print(text, end="", file=sys.stderr)
        return 1
    rows = json.loads(text)
    for verb, how, times in rows:
        print(f"{verb:16} {how}  {min(times):.3f} / {statistics.median(times):.3f} / {max(times):.3f}")
    path = store(f"{began:%Y-%m-%d-%H%M}-shell", {**head, "runs": rows})
    print(f"\nall numbers: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
