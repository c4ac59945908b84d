"""Ask the network ten times a second who has the VIP, and note every answer.

Runs in the watch host's machine; its argument, a JSON object, says what to do; prints one JSON object at its end.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Any

ETH_P_ARP, REQUEST, REPLY = 0x0806, 1, 2
BROADCAST = b"\xff" * 6


def watch(
    vip: str, interface: str, own: str, seconds: float, stop: str, ready: str = "", interval: float = 0.1
) -> dict[str, Any]:
    """Probe and listen. A window is the time (s) from one probe to the next: two holders that answer the same probe
    answer within one, since the kernel answers at once, even on a machine whose processes are frozen."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP))
    link.bind((interface, ETH_P_ARP))
    mac = link.getsockname()[4]
    question = frame(mac, socket.inet_aton(own), socket.inet_aton(vip))
    began_at, began = time.time(), time.monotonic()
    windows = doubles = silent = announced = 0
    holders: list[tuple[float, str]] = []
    conflicts: list[dict[str, Any]] = []
    if ready:
        Path(ready).touch()
    while (now := time.monotonic() - began) < seconds and not Path(stop).exists():
        link.send(question)
        windows += 1
        answers, gratuitous = listen(link, socket.inet_aton(vip), mac, began + now + interval)
        announced += gratuitous
        silent += not answers
        if len(answers) > 1:
            doubles += 1
            conflicts.append({"at": round(now, 3), "hosts": sorted(answers)})
        elif answers and (not holders or holders[-1][1] != next(iter(answers))):
            holders.append((round(now, 3), next(iter(answers))))
    return {
        "began_at": began_at, "probes": windows, "unanswered": silent, "doubles": doubles, "announcements": announced,
        "conflicts": conflicts[:100], "holders": holders[:500],
    }  # fmt: skip


def listen(link: socket.socket, vip: bytes, mac: bytes, until: float) -> tuple[set[str], int]:
    """MACs that answered us for the VIP until a monotonic time, and how many announced it unasked."""
    answers: set[str] = set()
    announced = 0
    while (left := until - time.monotonic()) > 0:
        link.settimeout(left)
        try:
            data = link.recv(2048)
        except TimeoutError:
            break
        if len(data) < 42 or data[28:32] != vip:
            continue
        if data[38:42] == vip:
            announced += 1
        elif struct.unpack("!H", data[20:22])[0] == REPLY and data[32:38] == mac:
            answers.add(":".join(f"{byte:02x}" for byte in data[22:28]))
    return answers, announced


def frame(mac: bytes, own: bytes, wanted: bytes) -> bytes:
    """An ARP request as an Ethernet frame."""
    ethernet = BROADCAST + mac + struct.pack("!H", ETH_P_ARP)
    return ethernet + struct.pack("!HHBBH", 1, 0x0800, 6, 4, REQUEST) + mac + own + bytes(6) + wanted


if __name__ == "__main__":
    print(json.dumps(watch(**json.loads(sys.argv[1]))))
