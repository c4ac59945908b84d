"""chef-server.rb, the one file by which a front end (Chef Infra Server) knows its back end; pure.

The form follows ``frontend:chef_server_version``: the names of ``opscode_solr4`` as Chef Backend printed them, with a
line more for every later release that would start a search engine of its own, or those of OpenSearch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from chefha_core.settings import Settings

#: releases of Chef Infra Server that know Elasticsearch, and OpenSearch, by a name of its own
KNOWS_ELASTICSEARCH = (13,)
KNOWS_OPENSEARCH = (14, 14)
#: where Chef's own HAProxy listens (frontend:way members)
LOOPBACK = "127.0.0.1"
#: its ports there, which chef-server.rb could change, but needn't
LOCAL_POSTGRESQL, LOCAL_SEARCH = 5432, 9200
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PLAIN, _NOTHING = re.compile(r"[a-z0-9.:-]+"), re.compile(r"(?!)")
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
#: name of a further line of chef-server.rb: `api_fqdn`, `nginx['ssl_port']`, `lb['upstream']['bookshelf']`
LINE = re.compile(r"[a-z_][a-z0-9_]*(\['[A-Za-z0-9_.-]+'\])*")


class Symbol(str):
    """A symbol of Ruby."""


Lines = Iterator[tuple[str, Any]]


def chef_server_rb(settings: Settings, fqdn: str) -> str:
    """chef-server.rb of the front end ``fqdn``."""
    own = {"fqdn": fqdn, "api_fqdn": fqdn}
    lines = {**own, **dict(_way(settings)), **dict(_postgresql(settings)), **dict(_search(settings)), **_REST}
    lines |= settings.frontend.settings
    return "".join(_line(name, value) for name, value in lines.items())


def version_of(settings: Settings) -> tuple[int, ...]:
    """Release of the front ends' Chef Infra Server, to compare; () if it is not written as numbers."""
    text = settings.frontend.chef_server_version
    return tuple(int(part) for part in text.split(".")) if re.fullmatch(r"\d+(\.\d+)+", text) else ()


def fqdn_of(settings: Settings, name: str) -> str:
    """Host name of the front end ``name``."""
    return str(settings.frontend.fqdns.get(name, name))


def fqdn_problem(fqdn: str) -> str:
    """Why this is no host name of a front end, in words that follow it; "" if it is one."""
    if fqdn != fqdn.lower():
        return "is not in lower case"
    if len(fqdn) > 253 or not _HOST_NAME.fullmatch(fqdn):
        return "is not a host name"
    return ""


def has_opensearch_form(settings: Settings) -> bool:
    """Whether chef-server.rb speaks of OpenSearch; else the names of opscode_solr4, which mean Elasticsearch."""
    return settings.search.flavor == "opensearch" and version_of(settings) >= KNOWS_OPENSEARCH


def _by_members(settings: Settings) -> bool:
    return settings.frontend.way == "members"


def _way(settings: Settings) -> Lines:
    """The second way in, without a virtual address: Chef's own HAProxy asks the members who leads."""
    if not _by_members(settings):
        return
    port = settings.leaderl.http_port
    yield "use_chef_backend", True
    yield "chef_backend_members", [address for _, address in sorted(settings.members.items())]
    yield "haproxy['listen']", LOOPBACK  # everybody could come in by its default
    yield "haproxy['remote_postgresql_port']", settings.postgresql.port
    yield "haproxy['remote_elasticsearch_port']", settings.search.port
    yield "haproxy['leaderl_healthcheck_port']", port
    # Chef asks etcd for its members, plain and by an API that is gone, before it takes the list above. Front ends do
    # not reach etcd: leaderl says no at once, where a closed port would cost each member's time-out.
    yield "haproxy['etcd_port']", port


def _postgresql(settings: Settings) -> Lines:
    pg = settings.postgresql
    yield "postgresql['external']", True
    yield "postgresql['vip']", LOOPBACK if _by_members(settings) else settings.vip
    if pg.port != LOCAL_POSTGRESQL and not _by_members(settings):
        yield "postgresql['port']", pg.port
    yield "postgresql['db_superuser']", pg.db_superuser
    yield "postgresql['db_superuser_password']", settings.secrets.superuser_password
    if settings.tls.enabled:
        yield "postgresql['sslmode']", "require"


def _search(settings: Settings) -> Lines:
    host, port = (LOOPBACK, LOCAL_SEARCH) if _by_members(settings) else (settings.vip, settings.search.port)
    if has_opensearch_form(settings):
        yield "elasticsearch['enable']", False
        yield "opensearch['external']", True
        yield "opensearch['external_url']", f"http://{host}:{port}"
        # some releases build the address of these two where Elasticsearch is not the external one
        yield "opensearch['vip']", host
        yield "opensearch['port']", port
        yield "opscode_erchef['search_provider']", "opensearch"
        # must be there even where nobody asks for them
        yield "opscode_erchef['search_auth_username']", settings.frontend.search_username
        yield "opscode_erchef['search_auth_password']", settings.frontend.search_username
    else:
        yield "opscode_solr4['external']", True
        yield "opscode_solr4['external_url']", f"http://{host}:{port}"
        if version_of(settings) >= KNOWS_ELASTICSEARCH:
            yield "elasticsearch['enable']", False
        if version_of(settings) >= KNOWS_OPENSEARCH:
            yield "opensearch['enable']", False
        yield "opscode_erchef['search_provider']", "elasticsearch"
    yield "opscode_erchef['search_queue_mode']", "batch"


_REST: dict[str, Any] = {
    "bookshelf['storage_type']": Symbol("sql"),
    "rabbitmq['enable']": False,
    "rabbitmq['management_enabled']": False,
    "rabbitmq['queue_length_monitor_enabled']": False,
    "opscode_expander['enable']": False,
    "dark_launch['actions']": False,
    "opscode_erchef['nginx_bookshelf_caching']": Symbol("on"),
    "opscode_erchef['s3_url_expiry_window_size']": "50%",
}


def _line(name: str, value: Any) -> str:
    if "[" in name:
        return f"{name} = {ruby(value)}\n"
    if isinstance(value, Mapping):  # without brackets Ruby would take it for a block
        return f"{name}({ruby(value)})\n"
    return f"{name} {ruby(value, _PLAIN)}\n"


def ruby(value: Any, plain: re.Pattern[str] = _NOTHING) -> str:
    """A plain value as Ruby writes it; no text can end its quotes or run as code.

    What is ``plain`` stands in double quotes, as Chef Backend printed names and addresses.
    """
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Symbol):
        return f":{value}"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{ruby(key)} => {ruby(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(ruby(item, plain) for item in value) + "]"
    return f'"{value}"' if plain.fullmatch(str(value)) else _text(str(value))


def _text(text: str) -> str:
    """Single quotes, in which Ruby knows but two escapes; what is not plain ASCII goes by its code point."""
    if text.isascii() and text.isprintable():
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    plain = (c if c.isascii() and c.isprintable() and c not in '"\\#' else f"\\u{{{ord(c):x}}}" for c in text)
    return '"' + "".join(plain) + '"'
