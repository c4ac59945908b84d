"""Run by systemd, as root, before each start of the search engine: what can only be decided then.

* The initial masters, and only while no other member is in a cluster: given to a node that was set up anew, they could
  form a second cluster beside the first. A node that knows a cluster ignores them, as the engine's own rule is.
* Where the engine and its Java are, and whether TLS and users have to be switched off: the makers' archives differ.
* Whether memory may be mapped: not every machine lets us raise ``vm.max_map_count``.

The result stands in ``/run``, so the configuration files never change.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from chefha_core.checked import SettingsError
from chefha_core.node import run_folder
from chefha_core.parts.search import SearchClient, SearchError
from chefha_core.search_engine import (
    CONFIG,
    START,
    START_JAVA,
    UNIT,
    engine_of,
    home_pattern,
    initial_setting,
    own_config,
)
from chefha_core.settings import SETTINGS_FILE, Search, Settings, load

#: asks for a first cluster of this node alone; made by the verb bootstrap as long as it lasts
ALONE = Path("/run/chefha/search-alone")
#: seconds that another member has to say whether it is in a cluster
DEADLINE = 2.0
#: below this the engine refuses to start, unless it maps no memory
LEAST_MAPS = 262144
#: lines of the maker's jvm.options that name places or a heap of their own: ours are in jvm.options.d
OURS = re.compile(r"^[\d\-:]*(-Xm[sx]|-Xlog|-XX:(HeapDumpPath|ErrorFile)=|-XX:.*(GCLog|PrintGC|PrintTenuring))")


@dataclass(frozen=True)
class Found:
    """What this machine and the other members look like before a start."""

    #: home folder of the engine
    home: str
    #: folder of Java; "" where the unit names one, or the engine brings its own
    java_home: str
    #: a member that is in a formed cluster, "" if none says so
    formed_at: str
    max_map_count: int
    #: whether the engine comes with TLS and users
    secured: bool
    #: the only one that may form the first cluster, "" if all members may
    alone: str = ""


def options(settings: Settings, found: Found) -> list[str]:
    """The engine's options for this start."""
    search = settings.search
    chosen = []
    if not found.formed_at:
        chosen.append(f"{initial_setting(search)}={found.alone or ','.join(sorted(settings.members))}")
    if found.secured:
        chosen.append(engine_of(search).security[1])
    if found.max_map_count < LEAST_MAPS and "node.store.allow_mmap" not in search.parameters:
        chosen.append("node.store.allow_mmap=false")
    return [f"-E{option}" for option in chosen]


def environment(settings: Settings, found: Found) -> str:
    """The environment file of the unit."""
    engine = engine_of(settings.search)
    command = " ".join([f"{found.home}/bin/{engine.program}", *options(settings, found)])
    java = f"{engine.prefix}_JAVA_HOME={found.java_home}\n" if found.java_home else ""
    return f"SEARCH_COMMAND={command}\n{java}"


def java_options(text: str) -> str:
    """The maker's jvm.options without heap, dumps and logs."""
    return "".join(f"{line}\n" for line in text.splitlines() if not OURS.match(line))


def look(settings: Settings, name: str) -> Found:
    """Look at this machine and ask the other members; SettingsError where there is no engine."""
    search = settings.search
    if search.flavor == "none":
        raise SettingsError(
            "pillar chefha:search:flavor is none, so there is no search to start here; set it, or apply this node's "
            f"states, which stop {UNIT} for good"
        )
    engine = engine_of(search)
    pattern = f"{home_pattern(search)}/bin/{engine.program}"
    programs = sorted(Path("/").glob(pattern.lstrip("/")))
    if len(programs) != 1:
        raise SettingsError(
            f"pillar chefha:search:source brought {len(programs)} programs {pattern}; expected exactly one: is it "
            f"{search.flavor}?"
        )
    home = str(programs[0].parent.parent)
    return Found(
        home=home,
        java_home=java_home(search),
        formed_at=formed_elsewhere(settings, name),
        max_map_count=int(Path("/proc/sys/vm/max_map_count").read_text(encoding="ascii")),
        secured=Path(home, engine.security[0]).is_dir(),
        alone=name if ALONE.exists() else "",
    )


def java_home(search: Search, root: str = "/usr/lib/jvm") -> str:
    """Folder of the Java that ``java_package`` brought; "" where it is not wanted."""
    if search.java_home or not search.java_package:
        return ""
    version = re.search(r"openjdk-(\d+)-", search.java_package)
    found = sorted(Path(root).glob(f"java-{version[1]}-openjdk-*")) if version else []
    return str(found[0]) if found else "/usr"  # where bin/java is whatever Debian's alternatives say


def formed_elsewhere(settings: Settings, name: str) -> str:
    """Another member that is in this cluster already, "" if none answers so within the deadline."""
    others = [other for other in sorted(settings.members) if other != name]
    with ThreadPoolExecutor(len(others)) as pool:
        answers = pool.map(lambda other: _formed(settings, other), others)
    return next((other for other, formed in zip(others, answers, strict=True) if formed), "")


def _formed(settings: Settings, other: str) -> bool:
    client = SearchClient(settings.members[other], settings.search.port, DEADLINE)
    try:
        root = client.root()
    except SearchError:
        return False
    finally:
        client.close()
    return root.formed and root.cluster == settings.cluster


def vote_again(settings: Settings, formed_at: str) -> None:
    """A node that was removed from the cluster has no vote (verb remove-node); whoever starts here has one again."""
    client = SearchClient(settings.members[formed_at], settings.search.port, 2 * DEADLINE)
    try:
        client.include_voters()
    except SearchError as error:
        print(f"whether all search nodes may vote is not certain: {error}", file=sys.stderr)
    finally:
        client.close()


def main() -> int:
    """Write both files; 2 with one sentence if that cannot be."""
    parser = argparse.ArgumentParser(description="decides how the search engine of a chefha member starts")
    parser.add_argument("--settings", type=Path, default=SETTINGS_FILE, help="JSON file that the states wrote")
    parser.add_argument("--name", required=True, help="this member's name")
    arguments = parser.parse_args()
    os.umask(0o022)  # the unit's is stricter, and others read in /run/chefha too
    try:
        settings = load(arguments.settings)
        found = look(settings, arguments.name)
        own = Path(own_config(settings.search, found.home), "jvm.options")
        _write(Path(START_JAVA), java_options(own.read_text(encoding="utf-8")))
        _write(Path(START), environment(settings, found))
        for half in Path(CONFIG).glob("*.keystore.tmp"):  # killed while it wrote its keystore, it never starts again
            half.unlink()
    except (SettingsError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if found.formed_at:
        vote_again(settings, found.formed_at)
    print(
        f"{found.formed_at or 'no other member'} is in a cluster: {' '.join(options(settings, found)) or 'no options'}"
    )
    return 0


def _write(path: Path, text: str) -> None:
    run_folder(path.parent)
    fresh = path.with_suffix(".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
