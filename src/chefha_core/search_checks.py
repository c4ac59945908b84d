"""What must hold within ``chefha:search``: where the engine comes from, and what only chefha sets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chefha_core.settings import Search, SearchSource, Settings

PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]+")
#: hexadecimal digits of a checksum
DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}
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
    return _package(source) if source.package else _archive(source)


def _archive(source: SearchSource) -> str:
    path = "pillar chefha:search:source"
    if not re.fullmatch(r"(https?://|salt://|/)\S+\.(tar\.gz|tgz|zip)", source.archive):
        return (
            f"{path}:archive is {source.archive!r}; expected a .tar.gz, .tgz or .zip at https://…, at salt://…, or an "
            "absolute path on the member"
        )
    kind, _, digits = source.checksum.partition("=")
    if source.checksum and not re.fullmatch(f"[0-9a-f]{{{DIGITS.get(kind, 0)}}}", digits or "-"):
        return f"{path}:checksum is {source.checksum!r}; expected sha256= and 64 hexadecimal digits, or sha384, sha512"
    if source.archive.startswith("http") and not source.checksum:
        return f"{path}:checksum is missing; what comes from {source.archive} must have one, such as sha256=0123…"
    return ""


def _package(source: SearchSource) -> str:
    path = "pillar chefha:search:source"
    if not PACKAGE.fullmatch(source.package):
        return f"{path}:package is {source.package!r}; expected the name of a Debian package"
    if source.repository and not re.fullmatch(r"deb \S.*", source.repository):
        return f"{path}:repository is {source.repository!r}; expected a line such as deb https://… stable main"
    if source.repository_key and "-----BEGIN PGP PUBLIC KEY BLOCK-----" not in source.repository_key:
        return f"{path}:repository_key is no armoured OpenPGP key; expected the text that begins with -----BEGIN PGP"
    return ""


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
