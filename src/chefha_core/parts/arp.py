"""ARP frames of our own: telling neighbours where the VIP is now, and asking whether somebody else has it.

Needs CAP_NET_RAW. Only Ethernet interfaces and IPv4.
"""

from __future__ import annotations

import fcntl
import ipaddress
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

_ETHERTYPE = 0x0806
_BROADCAST = b"\xff" * 6
_NOBODY = b"\0" * 6
_REQUEST, _REPLY = 1, 2
_SIOCGIFHWADDR = 0x8927
#: destination, source, type | hardware, protocol, their lengths, opcode | sender's MAC and IP, target's MAC
#: and IP
_FRAME = struct.Struct("!6s6sH HHBBH 6s4s6s4s")
#: Linux counts the time of a suspended machine here, unlike in time.monotonic
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ArpError(Exception):
    """The frames could not be sent or heard; the text is a sentence."""


class Announcement:
    """The repetitions that go on in the background. ``stop`` them before the VIP is given up."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self.sent = 0

    def stop(self) -> None:
        """Send nothing more. Returns at once; safe to call at any time."""
        self._stopped.set()

    def wait(self, seconds: float) -> bool:
        """Wait for up to ``seconds``; True if stopped."""
        return self._stopped.wait(seconds)

    @property
    def stopped(self) -> bool:
        """True after ``stop``."""
        return self._stopped.is_set()


def announce(
    vip: str,
    interface: str,
    times: int = 5,
    spacing: float = 0.2,
    *,
    still: Callable[[], bool] = lambda: True,
) -> Announcement:
    """Tell all neighbours that ``vip`` is at this interface: gratuitous ARP, ``times`` pairs of request and
    reply.

    The first pair has been sent when this returns; the rest follow from a daemon thread, ``spacing`` seconds
    apart, as long as ``still()`` is true and nobody calls ``stop`` of what is returned. A repetition that
    comes late (this process or the machine stood still) ends the announcement: the VIP may be elsewhere by
    then. ArpError.
    """
    sock, mac = _open(interface)
    address = ipaddress.IPv4Address(vip).packed
    announcement = Announcement()
    try:
        _send_pair(sock, mac, address)
    except OSError as error:
        sock.close()
        raise ArpError(f"{vip} could not be announced on {interface}: {error.strerror}") from error
    announcement.sent = 1
    if times < 2:
        sock.close()
        return announcement

    def repeat() -> None:
        with sock:
            due = time.clock_gettime(_CLOCK)
            for _ in range(times - 1):
                due += spacing
                if announcement.wait(max(0.0, due - time.clock_gettime(_CLOCK))):
                    return
                late = time.clock_gettime(_CLOCK) - due
                if late > max(spacing, 0.1) or not still() or announcement.stopped:
                    return
                try:
                    _send_pair(sock, mac, address)
                except OSError as error:
                    log.warning("%s could not be announced again on %s: %s", vip, interface, error.strerror)
                    return
                announcement.sent += 1

    threading.Thread(target=repeat, name="chefha-announce", daemon=True).start()
    return announcement


def who_has(vip: str, interface: str, wait: float = 0.1) -> str | None:
    """The MAC of a stranger that answers for ``vip`` within ``wait`` seconds; None if nobody does. ArpError.

    Asks as RFC 5227 wants it, without a sender's address, so no neighbour's cache changes. Answers of this
    machine's own interfaces do not count.
    """
    deadline = time.monotonic() + wait
    address = ipaddress.IPv4Address(vip).packed
    sock, mac = _open(interface)
    with sock:
        own = _own_macs(sock) | {mac}
        try:
            sock.send(_frame(_BROADCAST, mac, _REQUEST, b"\0" * 4, _NOBODY, address))
            while (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                raw = sock.recv(2048)
                if len(raw) < _FRAME.size:
                    continue
                fields = _FRAME.unpack_from(raw)
                # who claims the address in a request of its own has it just as much as who answers
                if fields[2] == _ETHERTYPE and fields[9] == address and fields[8] not in own:
                    return ":".join(f"{byte:02x}" for byte in fields[8])
        except TimeoutError:
            return None
        except OSError as error:
            raise ArpError(f"nobody could be asked for {vip} on {interface}: {error.strerror}") from error
    return None


def _open(interface: str) -> tuple[socket.socket, bytes]:
    """A raw socket for ARP on the interface, and the interface's MAC."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except OSError as error:
        raise ArpError(f"no raw socket for ARP: {error.strerror}") from error
    try:
        sock.bind((interface, _ETHERTYPE))
    except OSError as error:
        sock.close()
        raise ArpError(f"no ARP on the network interface {interface}: {error.strerror}") from error
    mac: bytes = sock.getsockname()[4]
    if len(mac) != len(_NOBODY) or mac == _NOBODY:
        sock.close()
        raise ArpError(f"the network interface {interface} is no Ethernet and has no neighbours to tell")
    return sock, mac


def _own_macs(sock: socket.socket) -> set[bytes]:
    macs = set()
    for _, name in socket.if_nameindex():
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("256s", name.encode()[:15]))
        except OSError:
            continue  # it went away meanwhile
        macs.add(answer[18:24])
    return macs


def _send_pair(sock: socket.socket, mac: bytes, address: bytes) -> None:
    """Some neighbours listen only to requests, some only to replies."""
    sock.send(_frame(_BROADCAST, mac, _REQUEST, address, _NOBODY, address))
    sock.send(_frame(_BROADCAST, mac, _REPLY, address, _BROADCAST, address))


def _frame(to: bytes, mac: bytes, opcode: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _FRAME.pack(to, mac, _ETHERTYPE, 1, 0x0800, 6, 4, opcode, mac, sender, target_mac, target)
