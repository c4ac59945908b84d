"""The lab for programs: tests and benchmarks use this class, and so does the command line.

lab = Lab()
lab.up()
with lab.probe(seconds=60) as probe:
    lab.fault("kill-host", lab.leader())
    ...
print(probe.result.longest_gap)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

from . import engine, faults, image, probe, search_probe, shop, timing
from .deploy import PROJECT, Deployment
from .nodes import Machines
from .probe import Probe, ProbeResult
from .progress import LabError, Progress
from .saltside import Salt, parse
from .search_probe import SearchProbe, SearchResult
from .stack import DEFAULT, STACKS, Stack
from .topology import BACKENDS, BY_NAME, FRONTENDS, MASTER, NETWORK, Node
from .witness import ASK_LEADERL

__all__ = ["STACKS", "STEPS", "Lab", "LabError", "ProbeResult", "SearchResult", "Stack"]

# `up` can stop after any of these; without that it goes through all.
STEPS = ("engine", "image", "machines", "keys", "project", "states")
LEADER_QUESTION = f"{ASK_LEADERL}; leaderl 127.0.0.1:7331/leader --max-time 1 -f -o /dev/null"


class Lab:
    """A lab, up or not. Every method raises LabError in words; nodes are given by name (`be1`, `master`, …)."""

    def __init__(self, quiet: bool = False) -> None:
        self.progress = Progress(quiet)
        #: what each minion answered when `up` last applied the states; the master's is that of its first time
        self.applied: dict[str, Any] = {}

    @cached_property
    def machines(self) -> Machines:
        """The containers; LabError if no engine answers."""
        return Machines(engine.connect())

    @property
    def stack(self) -> Stack:
        """What the lab that is up was asked to be; LabError if none is."""
        running = self._running()
        if running is None:
            raise LabError("the lab is not up (`python -m lab up`)")
        return running

    @property
    def _salt(self) -> Salt:
        return Salt(self.machines, self.stack.minions)

    # ---- up and down

    def up(
        self, stack: Stack | None = None, until: str = "states", fresh: bool = False, default: Stack = DEFAULT
    ) -> bool:
        """Bring the lab up, doing only what is missing; return whether anything was deployed.

        `stack` None keeps what runs, or takes `default`. `until` is one of STEPS. `fresh` deploys even if unchanged.
        """
        last = STEPS.index(until)
        with self.progress.step("engine"):
            client = engine.ensure()
        if last < STEPS.index("image"):
            return False
        with self.progress.step("image" if image.exists(client) else "image (built once, takes minutes)"):
            name = image.ensure(client)
        if last < STEPS.index("machines"):
            return False
        stack = self._agreed(stack, default)
        with self.progress.step(f"machines of the stack {stack.name}"):
            made = self.machines.create(stack.nodes, name, stack.label())
            self.machines.await_boot(stack.nodes)
        if last < STEPS.index("keys"):
            return False
        if made:
            with self.progress.step("minions' keys"):
                self._salt.accept_keys()
            with self.progress.step("minions answer"):
                self._salt.await_minions()
        if last < STEPS.index("project"):
            return False
        return self._deploy(stack, fresh, last >= STEPS.index("states"))

    def down(self, images: bool = False, stop_engine: bool = False) -> None:
        """Remove containers, volumes and network; with `images` every image, with `stop_engine` our own engine."""
        client = engine.answering()
        if client is None:
            self.progress.say("no Docker engine answers: there is no lab")
            return
        with self.progress.step("containers and network"):
            Machines(client).remove_all()
        if images:
            with self.progress.step("images"):
                image.remove(client)
        if stop_engine:
            with self.progress.step("engine"):
                self.progress.say(engine.stop_if_ours())
        for log in (image.LOG, engine.LOG) if images and stop_engine else ():
            log.unlink(missing_ok=True)
        self.__dict__.pop("machines", None)

    def status(self) -> list[dict[str, str]]:
        """A row per node: node, container, address, systemd, faults."""
        nodes = (self._running() or DEFAULT).nodes
        with ThreadPoolExecutor(len(nodes)) as pool:
            return list(pool.map(self._row, nodes))

    def replace(self, *nodes: str) -> None:
        """Throw back or front ends away, and put bare machines of the same names and addresses in their places, which
        the master knows and no state was applied to. Returns once their minions answer."""
        places = [named(node) for node in nodes]
        for place in places:
            if place not in (*BACKENDS, *FRONTENDS) or place not in self.stack.nodes:
                raise LabError(f"{place.name} can't be replaced: only back ends, and front ends where there are some")
        with self.progress.step(f"another {', '.join(nodes)}, bare"):
            for place in places:
                self.machines.remove(place)
                self._salt.forget_key(place)
            for place in places:
                self.machines.put_another(place)
            self._salt.accept_keys()
            self._salt.await_minions()

    def release(self, version: str) -> None:
        """Put these sources on the master as another version of chefha, and its number into the pillar: what comes
        before an upgrade. Nobody else has it yet.
        """
        deployment = Deployment(self.machines, self.stack, PROJECT)
        with self.progress.step(f"version {version} to the master"):
            deployment.put()
            deployment.renumber(version)
            wheel = deployment.build_wheel()
            deployment.write_pillar(wheel)
            deployment.make_secrets(wheel)
            self._salt.restart_master()

    # ---- at work

    def exec(
        self, node: str, cmd: str | Sequence[str], timeout: float = 60, env: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        """Run a command (a text is the shell's) on a node; its code and what it printed. 124: time was up."""
        command = ["sh", "-c", cmd] if isinstance(cmd, str) else list(cmd)
        ran = self.machines.run(named(node), command, timeout, env)
        return ran.rc, ran.text

    def highstate_test(self) -> dict[str, Any]:
        """What `salt '*' state.apply test=True` answers, by minion. LabError if a state fails even so."""
        return self._salt.apply("*", "test=True")

    def salt(self, *args: str, timeout: float = 60) -> dict[str, Any]:
        """Run `salt ARGS` on the master; each minion's answer by its name."""
        return self._salt.call(args, timeout)

    def salt_run(self, *args: str, timeout: float = 60) -> dict[str, Any]:
        """Run `salt-run ARGS` on the master; its answer, a refusal's as well. LabError if there is none."""
        ran = self.machines.run(MASTER, ["salt-run", "--out=json", *args], timeout)
        answer = parse(ran.out)
        if answer is None:
            raise LabError(f"salt-run {' '.join(args)} ended with {ran.rc} and no answer\n{ran.text}")
        return answer

    def fault(self, kind: str, node: str) -> str:
        """Inject a fault (see faults.FAULTS); return it in words."""
        return faults.inject(self.machines, kind, named(node))

    def heal(self, node: str) -> None:
        """Undo every fault on a node."""
        faults.heal(self.machines, named(node))

    def heal_all(self) -> None:
        """Undo every fault everywhere."""
        nodes = self.stack.nodes
        with ThreadPoolExecutor(len(nodes)) as pool:
            list(pool.map(lambda node: faults.heal(self.machines, node), nodes))

    def probe(
        self, seconds: float = 600.0, interval: float = 0.01, account: tuple[str, str] | None = None
    ) -> AbstractContextManager[Probe]:
        """Write through the VIP while the block runs, for at most `seconds`; `.result` is there after the block."""
        return probe.running(self.machines, seconds, interval, account)

    def probe_for(self, seconds: float = 20.0) -> ProbeResult:
        """Probe for a time, with nothing else going on."""
        return probe.run_for(self.machines, seconds)

    def search_probe(self, seconds: float = 600.0, interval: float = 0.25) -> AbstractContextManager[SearchProbe]:
        """Index and search through the VIP while the block runs; `.result` is there after the block."""
        return search_probe.running(self.machines, seconds, interval)

    def shop_for(self, seconds: float = 10.0) -> str:
        """Put and get objects through both front ends for a time; a table."""
        if not self.stack.frontends:
            raise LabError(f"the stack {self.stack.name} has no front ends: `python -m lab up --stack chef`")
        return shop.table(shop.load(self.machines, seconds))

    def leaders(self) -> list[str]:
        """Every back end whose leaderl says that it leads, asked on the machine itself (a cut does not hide it)."""
        with ThreadPoolExecutor(len(BACKENDS)) as pool:
            answers = list(pool.map(self._leads, BACKENDS))
        return [node.name for node, leads in zip(BACKENDS, answers, strict=True) if leads]

    def leader(self) -> str | None:
        """The one leader; None while there is none. LabError if two say they lead."""
        found = self.leaders()
        if len(found) > 1:
            raise LabError(f"more than one back end says it leads: {', '.join(found)}")
        return found[0] if found else None

    def cluster_status(self) -> str:
        """What `salt be1 chefha.cluster_status` prints."""
        ran = self.machines.run(MASTER, ["salt", "-t", "20", BACKENDS[0].name, "chefha.cluster_status"], 60)
        if ran.rc:
            raise LabError(f"chefha.cluster_status ended with {ran.rc}\n{ran.text}")
        return ran.out

    # ---- details

    def _running(self) -> Stack | None:
        """The stack of the lab that is up, or None."""
        label = self.machines.stack()
        return None if label is None else Stack.from_label(label)

    def _agreed(self, stack: Stack | None, default: Stack) -> Stack:
        """The stack to have: what runs if nothing else is asked for. A running lab's stack can't be changed."""
        running = self._running()
        if running is None:
            return stack or default
        if stack is not None and stack.label() != running.label():
            raise LabError(
                f"the lab that runs is another stack ({json.dumps(running.label())}) than asked for "
                f"({json.dumps(stack.label())}): run `python -m lab down` first"
            )
        return running

    def _deploy(self, stack: Stack, fresh: bool, apply: bool) -> bool:
        deployment = Deployment(self.machines, stack, PROJECT)
        if not fresh and deployment.is_current():
            self.progress.say("the project is deployed already")
            return False
        with self.progress.step("project to the master"):
            deployment.put()
        if stack.packaged:
            with self.progress.step("Debian repository"):
                deployment.make_repository()
        with self.progress.step("wheel"):
            wheel = deployment.build_wheel()
        with self.progress.step("pillar"):
            deployment.write_pillar(wheel)
        with self.progress.step("secrets"):
            must_restart = deployment.make_secrets(wheel)
        if must_restart:
            with self.progress.step("salt-master restarts with library and secrets"):
                self._salt.restart_master()
        if not apply:
            return True
        with self.progress.step("minions answer"):
            self._salt.await_minions()
        before, process = self._salt.master_configuration(), self._salt.master_process()
        with self.progress.step("salt master state.apply"):
            first = self._salt.apply(MASTER.name)
        if self._salt.master_configuration() != before:
            with self.progress.step("salt-master restarts with its new configuration"):
                self._salt.settle_master(process)
        with self.progress.step("salt '*' state.apply"):
            self.applied = {**self._salt.apply("*"), **first}
        self.progress.say(timing.table(self.applied))
        with self.progress.step("minions answer"):
            self._salt.await_minions()
        if stack.frontends:
            with self.progress.step("a small service on the front ends"):
                shop.install(self.machines)
        deployment.mark_current()
        return True

    def _row(self, node: Node) -> dict[str, str]:
        found = self.machines.find(node)
        state = found.status if found else "missing"
        return {
            "node": node.name,
            "container": state,
            "address": node.address,
            "systemd": self.machines.systemd_state(node),
            "faults": ", ".join(faults.active(self.machines, node)) if found else "-",
        }

    def _leads(self, node: Node) -> bool:
        found = self.machines.find(node)
        if found is None or found.status != "running":
            return False
        return self.machines.run(node, ["sh", "-c", LEADER_QUESTION], 5).rc == 0


def named(name: str) -> Node:
    """The node of that name; LabError if there is none."""
    try:
        return BY_NAME[name.removeprefix(f"{NETWORK}-")]
    except KeyError:
        raise LabError(f"no node {name}: there are {', '.join(BY_NAME)}") from None
