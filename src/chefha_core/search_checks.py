"""What must hold within ``chefha:search``: where the engine comes from, and what only chefha sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chefha_core.settings import Search, SearchSource, Settings
from chefha_core.source_checks import PACKAGE, checksum_problem, package_problem

#: setting of the engine -> setting that has it
ELSEWHERE = {
    "cluster.name": "chefha:cluster",
    "node.name": "chefha:members",
    "path.data": "chefha:search:data_dir",
    "path.logs": "chefha:search:log_dir",
    "http.port": "chefha:search:port",
    "transport.port": "chefha:search:transport_port",
    "transport.tcp.port": "chefha:search:transport_port",
}
#: settings that the cluster, the virtual address or its clients rest on
OWNED = (
    "cluster.initial_", "discovery.", "http.bind_host", "http.host", "http.publish_", "network.", "path.",
    "plugins.security.disabled", "transport.bind_host", "transport.host", "transport.publish_",
    "xpack.security.enabled",
)  # fmt: skip


def search_problem(settings: Settings) -> str:
    """`search:version` reads like a version, `search:source` has an archive with its checksum or a package, and
    `search:parameters` sets nothing that chefha sets."""
    search = settings.search
    if search.flavor == "none":
        return ""
    if not re.fullmatch(r"\d+\.\d+([.+~:-]?[\w.+~-]+)?", search.version):
        return f"pillar chefha:search:version is {search.version!r}; expected a version such as 1.3.20"
    return _source(search.source, search.flavor) or _java(search) or _refused_parameter(search.parameters)


def _source(source: SearchSource, flavor: str) -> str:
    path = "pillar chefha:search:source"
    if not source.archive and not source.package:
        return (
            f"{path} is missing although chefha:search:flavor is {flavor}; expected archive (with checksum) or "
            "package, or flavor none"
        )
    if source.archive and source.package:
        return f"{path} has both archive and package; expected one of them"
    return package_problem(path, source) if source.package else _archive(source)


def _archive(source: SearchSource) -> str:
    path = "pillar chefha:search:source"
    if not re.fullmatch(r"(https?://|salt://|/)\S+\.(tar\.gz|tgz|zip)", source.archive):
        return (
            f"{path}:archive is {source.archive!r}; expected a .tar.gz, .tgz or .zip at https://…, at salt://…, or an "
            "absolute path on the member"
        )
    return checksum_problem(path, source.archive, source.checksum)


def _java(search: Search) -> str:
    if search.java_package and not PACKAGE.fullmatch(search.java_package):
        return f"pillar chefha:search:java_package is {search.java_package!r}; expected the name of a Debian package"
    for option in search.java_opts:
        if re.match(r"-Xm[sx]", option):
            return f"pillar chefha:search:java_opts has {option}; set chefha:search:heap_mb instead"
        if not re.fullmatch(r"-\S[^\n]*", option):
            return f"pillar chefha:search:java_opts has {option!r}; expected options of Java, each beginning with '-'"
    return ""


def _refused_parameter(parameters: Mapping[str, Any]) -> str:
    path = "pillar chefha:search:parameters"
    for name, value in parameters.items():
        if name in ELSEWHERE:
            return f"{path} sets {name}; set {ELSEWHERE[name]} instead"
        if str(name).startswith(OWNED):
            return f"{path} sets {name}, which the cluster rests on; remove it"
        if not re.fullmatch(r"[a-z][\w.*-]*", str(name)):
            return f"{path} has {name!r}, which is no name of a setting"
        if not _plain(value):
            return f"{path}:{name} is {value!r}; expected a text, number or boolean, or a list of these"
    return ""


def _plain(value: Any) -> bool:
    parts = value if isinstance(value, list) else [value]
    return all(isinstance(part, (str, int, float)) for part in parts)
