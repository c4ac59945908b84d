"""What the Salt master keeps of the reactions it ran."""

from __future__ import annotations

from typing import Any

from lab.api import Lab
from lab.saltside import parse
from lab.topology import MASTER
from tests.lab.story import poll

CONVERGE = "chefha.converge"
RUN_TIMEOUT = 30.0
JOB_TIMEOUT = 40.0


def run(lab: Lab, *args: str) -> dict[str, Any]:
    """`salt-run ARGS` on the master."""
    code, text = lab.exec(MASTER.name, ["salt-run", "--out=json", *args], RUN_TIMEOUT)
    answer = parse(text)
    assert answer is not None, f"salt-run {' '.join(args)} ended with {code}: {text}"
    return answer


def jobs(lab: Lab, function: str) -> set[str]:
    """The numbers of the jobs that the master has of a function."""
    return set(run(lab, "jobs.list_jobs", f"search_function={function}"))


def await_job(lab: Lab, before: set[str], minion: str) -> dict[str, Any]:
    """The first job since `before` that this minion has answered with data: number, function, answers by minion."""
    found: dict[str, Any] = {}

    def answered() -> bool:
        for number in sorted(jobs(lab, CONVERGE) - before):
            job = run(lab, "jobs.list_job", number)
            answers = {name: row.get("return") for name, row in (job.get("Result") or {}).items()}
            if isinstance(answers.get(minion), dict):
                found.update(number=number, function=job["Function"], answers=answers)
                return True
        return False

    assert poll(answered, JOB_TIMEOUT), f"no {CONVERGE} of {minion} in the master's job cache since the fault"
    return found
