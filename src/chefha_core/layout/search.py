"""OpenSearch or Elasticsearch on a member: engine, Java, files, unit; running, maybe still waiting for the others."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from chefha_core.layout.repository import repository
from chefha_core.layout.search_files import config_text, java_options, log_text, unit_text
from chefha_core.layout.wish import (
    UNITS,
    Wish,
    absent,
    folder,
    link,
    masked,
    running,
    text_file,
    unit_file,
    units_known,
)
from chefha_core.search_engine import CONFIG, START_JAVA, UNIT, UNPACKED, USER, engine_of, unpacked
from chefha_core.search_start import LEAST_MAPS
from chefha_core.settings import Search, Settings

SYSCTL_FILE = "/etc/sysctl.d/60-chefha-search.conf"
MAPS = Path("/proc/sys/vm/max_map_count")
#: OpenSearch's package insists on a password for a demonstration that we keep it from setting up
PACKAGE_ENVIRONMENT = [{"DISABLE_INSTALL_DEMO_CONFIG": "true"}, {"OPENSEARCH_INITIAL_ADMIN_PASSWORD": "unused"}]
#: what `systemctl enable` makes of the unit's [Install]
ENABLED = f"{UNITS}/multi-user.target.wants/{UNIT}"
OURS = "# Written by chefha's states: changes here are lost\n"


@dataclass(frozen=True)
class Machine:
    """What the layout must know of the machine."""

    memory_mb: int
    #: whether vm.max_map_count is too low and can be raised; in most containers it cannot
    raise_maps: bool


def this_machine() -> Machine:
    """The machine that runs this."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"), re.MULTILINE)
    low = int(MAPS.read_text(encoding="ascii")) < LEAST_MAPS
    return Machine(int(total[1]) >> 10 if total else 0, low and os.access(MAPS, os.W_OK))


def search(settings: Settings, name: str) -> list[Wish]:
    """The engine of the member ``name``, running; it may still be waiting for the others. Nothing runs where the pillar
    wants no search.
    """
    return wishes(settings, name, this_machine())


def wishes(settings: Settings, name: str, machine: Machine) -> list[Wish]:
    """The same on a given machine."""
    wanted = settings.search
    if wanted.flavor == "none":
        return _switched_off()
    private = [folder(path, USER, "0700") for path in (wanted.data_dir, wanted.log_dir)]
    sysctl = {"name": "vm.max_map_count", "value": LEAST_MAPS, "config": SYSCTL_FILE}
    return [
        Wish("user.present", {"name": USER, "system": True, "createhome": False, "shell": "/usr/sbin/nologin"}),
        *_java(wanted),
        *(_package(wanted) if wanted.source.package else _archive(wanted)),
        *([Wish("sysctl.present", sysctl)] if machine.raise_maps else []),
        *private,
        *_files(settings, name, machine),
        unit_file(UNIT, unit_text(settings, name)),
        running(UNIT, in_turn=True),
    ]


def _switched_off() -> list[Wish]:
    """A search that was laid out once is stopped and does not come back; its data and its engine stay."""
    # not `stopped`: a unit that waits for its next try to start is only activating, and would try for ever
    runs = f"systemctl is-active {UNIT} | grep -qx -e active -e activating -e reloading -e deactivating"
    return [
        Wish("cmd.run", {"name": f"systemctl stop {UNIT}"}, only_if=runs),
        absent(ENABLED),
        absent(f"{UNITS}/{UNIT}"),
        units_known(),
    ]


def _files(settings: Settings, name: str, machine: Machine) -> list[Wish]:
    # the engine makes a keystore of its own in the folder, so it must be able to write there
    engine, mode = engine_of(settings.search), "0640"
    return [
        folder(CONFIG, USER, "0750"),
        text_file(f"{CONFIG}/{engine.config_file}", config_text(settings, name), USER, mode),
        text_file(f"{CONFIG}/log4j2.properties", log_text(settings), USER, mode),
        link(f"{CONFIG}/jvm.options", START_JAVA),
        folder(f"{CONFIG}/jvm.options.d", USER, "0750"),
        text_file(
            f"{CONFIG}/jvm.options.d/chefha.options", java_options(settings.search, machine.memory_mb), USER, mode
        ),
    ]


def _java(wanted: Search) -> list[Wish]:
    if wanted.java_home or not wanted.java_package:
        return []
    return [_installed("chefha-java", [wanted.java_package])]


def _installed(name: str, pkgs: list[object], **more: object) -> Wish:
    return Wish("pkg.installed", {"name": name, "pkgs": pkgs, "refresh": None, "install_recommends": False, **more})


def _archive(wanted: Search) -> list[Wish]:
    """Unpacked once: the mark is set only behind a complete archive, and then nothing is fetched any more."""
    place, source = unpacked(wanted), wanted.source
    mark = f"{place}/.complete"
    check = {"source_hash": source.checksum} if source.checksum else {"skip_verify": True}
    arguments = {"name": place, "source": source.archive, "if_missing": mark, "user": "root", "group": "root"}
    more = {"keep_source": False, "trim_output": 5}
    return [
        folder(UNPACKED),
        Wish("archive.extracted", {**arguments, **check, **more}),
        text_file(mark, "unpacked by chefha's states\n"),
    ]


def _package(wanted: Search) -> list[Wish]:
    """From the maker's repository; the service that comes with the package never starts."""
    source, prefix = wanted.source, engine_of(wanted).prefix
    return [
        masked(f"{wanted.flavor}.service"),
        *repository("chefha-search", source.repository, source.repository_key),
        _installed("chefha-search-package", [{source.package: wanted.version}], refresh=True, env=PACKAGE_ENVIRONMENT),
        # Elasticsearch's programs read it last, so that what the unit says would not count
        text_file(f"/etc/default/{wanted.flavor}", f"{OURS}{prefix}_PATH_CONF={CONFIG}\n"),
    ]
