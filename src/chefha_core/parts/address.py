"""The VIP as an address with a lifetime, which the kernel itself ends: whoever stops renewing it loses it.

Linux counts whole seconds and removes an address up to about a second late. The address is a /32 without a
route, and deprecated from the start, so that nothing ever uses it as a source.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import math
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

#: what the kernel says for an address without an end
_FOR_EVER = 0xFFFFFFFF


# Linux: include/uapi/linux/{netlink,rtnetlink,if_addr}.h
_RTM_NEWADDR, _NLMSG_ERROR = 20, 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_REPLACE, _NLM_F_CREATE = 0x1, 0x4, 0x100, 0x400
_IFA_ADDRESS, _IFA_LOCAL, _IFA_CACHEINFO, _IFA_FLAGS = 1, 2, 6, 8
_NOPREFIXROUTE = struct.pack("=I", 0x200)
_HEADER = struct.Struct("=IHHII")


class AddressError(Exception):
    """The address could not be changed or read; the text is a sentence."""


@dataclass(frozen=True)
class HeldAddress:
    """Whether this node has the VIP. ``remaining_seconds``: of its lifetime; infinite if somebody set it for
    good.

    ``places``: every ``(interface, prefix length)`` that has it; usually one.
    """

    present: bool
    remaining_seconds: float = 0.0
    places: tuple[tuple[str, int], ...] = ()


class Address:
    """The VIP (IPv4 text) on one interface of this node. ``timeout`` in seconds for each look or change."""

    def __init__(self, vip: str, interface: str, *, timeout: float = 2.0) -> None:
        self.vip = str(ipaddress.IPv4Address(vip))
        self.interface = interface
        self.timeout = timeout
        self._ip = shutil.which("ip", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "ip"

    def hold(self, lifetime_seconds: int) -> None:
        """Add the VIP, or start its lifetime again. The caller counts from before this call. AddressError.

        Asks the kernel directly: between the caller's look at the clock and the kernel's there must be next to nothing,
        for a process that is stopped in between would start a lifetime that is over for everybody else.
        """
        if lifetime_seconds < 1:
            raise ValueError(f"a lifetime of {lifetime_seconds} s is none; at least 1 is needed")
        local = socket.inet_aton(self.vip)
        cache = struct.pack("=IIII", 0, int(lifetime_seconds), 0, 0)  # preferred for 0 s: never a source address
        attributes = ((_IFA_LOCAL, local), (_IFA_ADDRESS, local), (_IFA_CACHEINFO, cache), (_IFA_FLAGS, _NOPREFIXROUTE))
        try:
            index = socket.if_nametoindex(self.interface)
            _netlink(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_REPLACE, index, attributes, self.timeout)
        except OSError as error:
            what = f"the VIP {self.vip} could not be given to {self.interface} for {lifetime_seconds} s"
            raise AddressError(f"{what}: {error.strerror or error}") from error

    def drop(self) -> None:
        """Remove the VIP from wherever this node has it; fine if it has not. AddressError if it is still
        there.
        """
        problem: AddressError | None = None
        for interface, length in self.held().places:
            try:
                self._run("addr", "del", f"{self.vip}/{length}", "dev", interface)
            except AddressError as error:
                problem = error  # it may have expired between look and removal
        if problem is not None and self.held().present:
            raise problem

    def present(self) -> bool:
        """True if this node has the VIP now. Starts no process and sends nothing.

        The kernel is asked from which address it would talk to the VIP: from the VIP only if it is here.
        (Trying to bind it would not do: with ``net.ipv4.ip_nonlocal_bind`` anything can be bound.)
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((self.vip, 9))
            except OSError:
                return False
            return bool(probe.getsockname()[0] == self.vip)

    def held(self) -> HeldAddress:
        """What the kernel says now, on all interfaces. AddressError if it cannot be asked."""
        places: list[tuple[str, int]] = []
        remaining = 0.0
        for link in self._json("-4", "addr", "show", "to", f"{self.vip}/32"):
            for entry in link.get("addr_info", ()):
                if entry.get("local") == self.vip:
                    life = int(entry.get("valid_life_time", _FOR_EVER))
                    remaining = max(remaining, math.inf if life == _FOR_EVER else float(life))
                    places.append((str(link.get("ifname", "")), int(entry.get("prefixlen", 32))))
        return HeldAddress(bool(places), remaining, tuple(places))

    def interface_problem(self) -> str:
        """Why the interface cannot carry the VIP, in words; "" if it can."""
        try:
            found = self._json("link", "show", "dev", self.interface)
        except AddressError as error:
            return f"the network interface {self.interface} cannot be used: {error}"
        flags = found[0].get("flags", ()) if found else ()
        if "UP" not in flags:
            return f"the network interface {self.interface} is switched off"
        if "NO-CARRIER" in flags or found[0].get("operstate") in ("DOWN", "LOWERLAYERDOWN", "DORMANT"):
            return f"the network interface {self.interface} has no carrier: cable, switch or peer is down"
        try:
            held = self.held()
        except AddressError as error:
            return str(error)
        if held.remaining_seconds == math.inf:
            where = ", ".join(interface for interface, _ in held.places)
            return f"the VIP {self.vip} is configured for good on {where}; take it out of the network set-up"
        return ""

    def _json(self, *arguments: str) -> list[dict[str, Any]]:
        output = self._run("-j", *arguments)
        try:
            # with -j older iproute2 prints empty objects for the links that a filter left out
            return [link for link in json.loads(output or "[]") if link]
        except ValueError:
            raise AddressError(f"'ip {' '.join(arguments)}' printed no JSON: {output[:200]!r}") from None

    def _run(self, *arguments: str) -> str:
        shown = f"ip {' '.join(arguments)}"
        try:
            process = subprocess.Popen(
                [self._ip, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "LC_ALL": "C"},
            )
        except OSError as error:
            raise AddressError(f"'{shown}' could not be started: {error}") from error
        try:
            output, errors = process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            # not waited for: a process that hangs in the kernel would take this one with it
            for pipe in (process.stdout, process.stderr):
                with contextlib.suppress(OSError):
                    if pipe is not None:
                        pipe.close()
            raise AddressError(f"'{shown}' did not end within {self.timeout:g} s") from None
        if process.returncode != 0:
            reason = " ".join(errors.split()) or f"exit status {process.returncode}"
            raise AddressError(f"'{shown}' failed: {reason}")
        return output


def _netlink(kind: int, flags: int, index: int, attributes: Iterable[tuple[int, bytes]], timeout: float) -> None:
    """One request about an IPv4 /32 on the interface ``index``, and the kernel's answer; OSError if it refuses."""
    body = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, index)
    for number, value in attributes:
        body += struct.pack("=HH", 4 + len(value), number) + value  # all of them are multiples of 4 long
    head = _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_ACK | flags, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(timeout)
        netlink.send(head + body)
        answer = netlink.recv(4096)
    if _HEADER.unpack_from(answer)[1] == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, _HEADER.size)
        if code:
            raise OSError(-code, os.strerror(-code))
