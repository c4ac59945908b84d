"""What can be made to fail, as a table: one row per kind, how to inject it, how to undo it, and what it is.

Injecting twice is the same as once, and so is healing. What is active is read from the machine itself, so it is right
after a crash of this program, too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from docker.errors import APIError

from .nodes import Machines
from .progress import LabError
from .topology import BACKENDS, MASTER, Node

# A table of its own, with chains far in front of those of chefha's firewall: what is dropped here is gone, the rest
# goes on to that.
TABLE = "inet chefha_lab"
UNIT = "chefha-leaderl.service"
DROPIN = f"/run/systemd/system/{UNIT}.d/lab.conf"
# The oldest: all others are its children. Whoever started it.
POSTMASTER = "$(pgrep -o -x postgres)"
LEADERL = f"$(systemctl show -P MainPID {UNIT})"
SEARCH = "$(systemctl show -P MainPID chefha-search.service)"
STEP_TIMEOUT = 30.0
FREEZE_TIMEOUT = 20.0


@dataclass(frozen=True)
class Fault:
    """A kind of fault. `active` tells whether it is in place; None where it is over as soon as it has happened."""

    kind: str
    sentence: str
    apply: Callable[[Machines, Node], None]
    heal: Callable[[Machines, Node], None]
    active: Callable[[Machines, Node], bool] | None = None
    only: tuple[Node, ...] = BACKENDS


# ---- the engine's means


def _kill_host(machines: Machines, node: Node) -> None:
    if machines.get(node).status != "exited":
        _engine(machines.get(node).kill, node)


def _start_host(machines: Machines, node: Node) -> None:
    if machines.get(node).status in ("exited", "created"):
        machines.start(node)
        machines.await_boot([node])


def _pause_host(machines: Machines, node: Node) -> None:
    deadline = time.monotonic() + FREEZE_TIMEOUT
    while machines.get(node).status == "running":
        try:
            _engine(machines.get(node).pause, node)
        except LabError:  # cgroup v1 fails to freeze what is just forking: runc gives up after a moment
            if time.monotonic() > deadline:
                raise


def _unpause_host(machines: Machines, node: Node) -> None:
    if machines.get(node).status == "paused":
        _engine(machines.get(node).unpause, node)


def _has_status(status: str) -> Callable[[Machines, Node], bool]:
    return lambda machines, node: machines.get(node).status == status


def _engine(action: Callable[[], object], node: Node) -> None:
    try:
        action()
    except APIError as error:
        raise LabError(f"{node.container}: {error.explanation}") from error


# ---- means inside a machine


def _shell(script: str) -> Callable[[Machines, Node], None]:
    """A step carried out by the machine's own shell."""

    def step(machines: Machines, node: Node) -> None:
        machines.check(node, ["sh", "-c", f"set -e; {script}"], STEP_TIMEOUT)

    return step


def _asks(script: str) -> Callable[[Machines, Node], bool]:
    """A question to the machine: the shell's code 0 is yes. A machine that can't be asked has no such fault."""
    return lambda machines, node: (
        machines.get(node).status == "running" and machines.run(node, ["sh", "-c", script], STEP_TIMEOUT).rc == 0
    )


def _nothing(machines: Machines, node: Node) -> None:
    """For what heals itself, or is healed by the machine's start."""


def _signal(signal: str, process: str) -> str:
    """Send a signal; the process must be there, except for being continued."""
    return f'pid={process}; [ -n "$pid" ] && [ "$pid" -gt 1 ] && kill -{signal} "$pid"'


def _is_stopped(process: str) -> Callable[[Machines, Node], bool]:
    return _asks(f'pid={process} 2>/dev/null; grep -q "^State:.T" "/proc/$pid/status" 2>/dev/null')


def _continue(process: str) -> Callable[[Machines, Node], None]:
    return _shell(f"({_signal('CONT', process)}) 2>/dev/null || true")


def _cut(name: str, rules: Callable[[Node], dict[str, list[str]]]) -> Callable[[Machines, Node], None]:
    """Put up nftables chains of our own, one per direction and kind of cut, in one transaction.

    They come before all others, so that no rule of the project's firewall lets a packet by.
    """

    def step(machines: Machines, node: Node) -> None:
        lines = [f"add table {TABLE}"]
        for hook, drops in rules(node).items():
            chain = f"{TABLE} {_chain(name, hook)}"
            lines.append(f"add chain {chain} {{ type filter hook {hook} priority -350; policy accept; }}")
            lines.append(f"flush chain {chain}")
            lines += [f"add rule {chain} {rule} drop" for rule in drops]
        machines.check(node, ["sh", "-c", 'printf "%s\\n" "$1" | nft -f -', "nft", "\n".join(lines)], STEP_TIMEOUT)

    return step


def _mend(name: str) -> Callable[[Machines, Node], None]:
    """Take down the chains of one kind of cut, if they are there."""
    script = "; ".join(
        f"nft delete chain {TABLE} {_chain(name, hook)} 2>/dev/null || true" for hook in ("input", "output")
    )
    return _shell(script)


def _is_cut(name: str) -> Callable[[Machines, Node], bool]:
    return _asks(f"nft list chain {TABLE} {_chain(name, 'input')} >/dev/null 2>&1")


def _chain(name: str, hook: str) -> str:
    return f"{name.replace('-', '_')}_{hook}"


def _all_but_loopback(_: Node) -> dict[str, list[str]]:
    return {"input": ['iifname != "lo"'], "output": ['oifname != "lo"']}


def _other_backends(node: Node) -> dict[str, list[str]]:
    others = [other for other in BACKENDS if other is not node]
    sets = {
        "ip": ", ".join(other.address for other in others),
        "ip6": ", ".join(other.address6 for other in others),
    }
    return {
        "input": [f"{family} saddr {{{addresses}}}" for family, addresses in sets.items()],
        "output": [f"{family} daddr {{{addresses}}}" for family, addresses in sets.items()],
    }


def _etcd(_: Node) -> dict[str, list[str]]:
    ports = ("tcp dport {2379, 2380}", "tcp sport {2379, 2380}")
    return {
        "input": [f'iifname != "lo" {port}' for port in ports],
        "output": [f'oifname != "lo" {port}' for port in ports],
    }


_KEEP_DEAD = (
    f"systemctl cat {UNIT} >/dev/null; mkdir -p $(dirname {DROPIN}); "
    f"printf '[Service]\\nRestart=no\\n' > {DROPIN}; systemctl daemon-reload; "
    f"({_signal('KILL', LEADERL)}) 2>/dev/null || true"
)
_BRING_BACK = f"rm -f {DROPIN}; systemctl daemon-reload; systemctl reset-failed {UNIT} || true; systemctl start {UNIT}"

FAULTS = {
    fault.kind: fault
    for fault in (
        Fault("pause-host", "the machine is frozen; its kernel's clocks go on",
              _pause_host, _unpause_host, _has_status("paused")),
        Fault("kill-host", "the machine loses its power",
              _kill_host, _start_host, _has_status("exited")),
        Fault("kill-master", "the Salt master's machine loses its power",
              _kill_host, _start_host, _has_status("exited"), (MASTER,)),
        Fault("kill-postgres", "PostgreSQL's first process is killed (kill -9)",
              _shell(_signal("KILL", POSTMASTER)), _nothing),
        Fault("stop-postgres", "PostgreSQL's first process hangs (SIGSTOP)",
              _shell(_signal("STOP", POSTMASTER)), _continue(POSTMASTER), _is_stopped(POSTMASTER)),
        Fault("kill-leaderl", "leaderl is killed (kill -9); systemd starts it again",
              _shell(_signal("KILL", LEADERL)), _nothing),
        Fault("keep-leaderl-dead", "leaderl is killed and systemd does not start it again",
              _shell(_KEEP_DEAD), _shell(f"if [ -e {DROPIN} ]; then {_BRING_BACK}; fi"), _asks(f"[ -e {DROPIN} ]")),
        Fault("stop-leaderl", "leaderl hangs (SIGSTOP)",
              _shell(_signal("STOP", LEADERL)), _continue(LEADERL), _is_stopped(LEADERL)),
        Fault("kill-search", "the search node is killed (kill -9); systemd starts it again",
              _shell(_signal("KILL", SEARCH)), _nothing),
        Fault("stop-search", "the search node hangs (SIGSTOP)",
              _shell(_signal("STOP", SEARCH)), _continue(SEARCH), _is_stopped(SEARCH)),
        Fault("isolate", "every packet to and from the machine is lost",
              _cut("isolate", _all_but_loopback), _mend("isolate"), _is_cut("isolate")),
        Fault("cut-peers", "every packet to and from the other backends is lost",
              _cut("cut-peers", _other_backends), _mend("cut-peers"), _is_cut("cut-peers")),
        Fault("cut-etcd", "every packet of etcd (2379, 2380) to and from other machines is lost",
              _cut("cut-etcd", _etcd), _mend("cut-etcd"), _is_cut("cut-etcd")),
    )
}  # fmt: skip


def inject(machines: Machines, kind: str, node: Node) -> str:
    """Make a node fail in this way; return the fault in words. LabError for what can't be done there."""
    fault = FAULTS.get(kind)
    if fault is None:
        raise LabError(f"no such fault: {kind}. There are: {', '.join(FAULTS)}")
    if node not in fault.only and kind not in ("kill-host", "pause-host"):
        raise LabError(f"{kind} is for {', '.join(n.name for n in fault.only)}, not for {node.name}")
    fault.apply(machines, node)
    return f"{node.name}: {fault.sentence}"


def heal(machines: Machines, node: Node) -> None:
    """Undo every fault of a node, in the table's order: a machine that stands or sleeps can't be mended inside."""
    for fault in FAULTS.values():
        if fault.active is None or not fault.active(machines, node):
            continue
        fault.heal(machines, node)


def active(machines: Machines, node: Node) -> list[str]:
    """The kinds of fault that are in place on a node now."""
    kinds = [f.kind for f in FAULTS.values() if f.active and f.active(machines, node)]
    return [kind for kind in kinds if kind != ("kill-host" if node is MASTER else "kill-master")]
