"""What differs between OpenSearch and Elasticsearch, and where chefha puts either."""

from __future__ import annotations

import re
from dataclasses import dataclass

from chefha_core.settings import Search

UNIT = "chefha-search.service"
USER = "chefha-search"
CONFIG = "/etc/chefha/search"
CACHE = "/var/cache/chefha-search"
UNPACKED = "/opt/chefha-search"
#: written before each start: what is decided then, and the maker's options for Java
START = "/run/chefha/search.env"
START_JAVA = "/run/chefha/search.jvm.options"


@dataclass(frozen=True)
class Engine:
    """One flavor."""

    program: str
    config_file: str
    #: first part of the names of its environment variables
    prefix: str
    #: folder below its home, and the setting that switches off what is in it: TLS and users
    security: tuple[str, str]


ENGINES = {
    "opensearch": Engine(
        "opensearch", "opensearch.yml", "OPENSEARCH", ("plugins/opensearch-security", "plugins.security.disabled=true")
    ),
    "elasticsearch": Engine(
        "elasticsearch", "elasticsearch.yml", "ES", ("modules/x-pack-security", "xpack.security.enabled=false")
    ),
}


def engine_of(search: Search) -> Engine:
    """The flavor's row."""
    return ENGINES[search.flavor]


def initial_setting(search: Search) -> str:
    """The setting that names the first masters: OpenSearch 2 renamed it."""
    renamed = search.flavor == "opensearch" and int(search.version.split(".")[0]) >= 2
    return "cluster.initial_cluster_manager_nodes" if renamed else "cluster.initial_master_nodes"


def unpacked(search: Search) -> str:
    """Where the archive is unpacked; another archive goes beside it."""
    mark = re.sub(r".*=", "", search.source.checksum)[:12]
    return "-".join(filter(None, [f"{UNPACKED}/{search.flavor}-{search.version}", mark]))


def home_pattern(search: Search) -> str:
    """Where the engine's home folder is, as a pattern: the archive's only folder, or the package's."""
    return f"/usr/share/{search.flavor}" if search.source.package else f"{unpacked(search)}/*"


def own_config(search: Search, home: str) -> str:
    """Folder with the maker's own configuration."""
    return f"/etc/{search.flavor}" if search.source.package else f"{home}/config"
