"""What a Chef Infra Server accepts of its back end, as tables, and the checks of the pillar against them.

Its first ``chef-server-ctl reconfigure`` stops where one of these does not hold. Read from chef/chef-server's
validators; the page docs/frontends.md has the codes of its messages.
"""

from __future__ import annotations

import re
from typing import Any

from chefha_core.chef_server import LINE, fqdn_of, fqdn_problem, has_opensearch_form, version_of
from chefha_core.settings import Frontend, Settings
from chefha_core.source_checks import checksum_problem, package_problem

#: the oldest front end that can have its database elsewhere
OLDEST = (12, 4)
#: from this release of the front end: newest major version of PostgreSQL
POSTGRESQL: tuple[tuple[tuple[int, ...], int], ...] = (((15, 10, 117), 14), (OLDEST, 13))
#: flavour of search: from this release of the front end, these major versions
SEARCH: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "elasticsearch": (OLDEST, (2, 5, 6, 7)),
    "opensearch": ((14, 14), (1,)),
}
#: lines of chef-server.rb that may say only this
VALUES: dict[str, tuple[Any, ...]] = {"opscode_erchef['search_queue_mode']": ("batch", "inline")}
#: lines that chefha writes and the back end rests on -> setting that has them, "" if none
OWNED: dict[str, str] = {
    "fqdn": "frontend:fqdns",
    "use_chef_backend": "frontend:way",
    "chef_backend_members": "members",
    "haproxy['listen']": "",
    "haproxy['remote_postgresql_port']": "postgresql:port",
    "haproxy['remote_elasticsearch_port']": "search:port",
    "haproxy['leaderl_healthcheck_port']": "leaderl:http_port",
    "haproxy['etcd_port']": "",
    "postgresql['external']": "",
    "postgresql['vip']": "vip",
    "postgresql['port']": "postgresql:port",
    "postgresql['db_superuser']": "postgresql:db_superuser",
    "postgresql['db_superuser_password']": "secrets:superuser_password",
    "postgresql['sslmode']": "tls:enabled",
    "opscode_solr4['external']": "",
    "opscode_solr4['external_url']": "search:port",
    "elasticsearch['enable']": "",
    "opensearch['enable']": "",
    "opensearch['external']": "",
    "opensearch['external_url']": "search:port",
    "opensearch['vip']": "vip",
    "opensearch['port']": "search:port",
    "opscode_erchef['search_provider']": "search:flavor",
    "opscode_erchef['search_auth_username']": "frontend:search_username",
    "opscode_erchef['search_auth_password']": "frontend:search_username",
    "bookshelf['storage_type']": "",
    "rabbitmq['enable']": "",
    "rabbitmq['management_enabled']": "",
    "rabbitmq['queue_length_monitor_enabled']": "",
    "opscode_expander['enable']": "",
    "dark_launch['actions']": "",
}
#: lines that chefha writes only for want of others
FREE = (
    "api_fqdn",
    "opscode_erchef['search_queue_mode']",
    "opscode_erchef['nginx_bookshelf_caching']",
    "opscode_erchef['s3_url_expiry_window_size']",
)
_ANYWAY = "or set chefha:frontend:check_versions to false"


def front_ends(settings: Settings) -> str:
    """`frontend:fqdns` has host names of the front ends, `frontend:source` from the network needs `frontend:checksum`
    and takes the place of `frontend:repository`, and the names in `frontend:settings` are left sides of lines of
    chef-server.rb that chefha does not write itself."""
    for name in settings.frontend.fqdns:
        if name not in settings.frontends:
            return f"pillar chefha:frontend:fqdns has {name}, which is not in chefha:frontends"
    for name in settings.frontends:
        fqdn = fqdn_of(settings, name)
        if problem := fqdn_problem(fqdn):
            return (
                f"the host name {fqdn!r} of the front end {name} {problem}; set pillar chefha:frontend:fqdns:{name} to "
                "a name such as chef.example.com"
            )
    front = settings.frontend
    return _source(front) or next(filter(None, (_further(name, value) for name, value in front.settings.items())), "")


def _source(front: Frontend) -> str:
    path = "pillar chefha:frontend"
    if front.source and front.repository:
        return f"{path} has both source and repository; expected one of them"
    if front.source and not re.fullmatch(r"(https?://|salt://|/)\S+", front.source):
        return (
            f"{path}:source is {front.source!r}; expected a Debian package at https://…, at salt://…, or an absolute "
            "path on the front end"
        )
    return checksum_problem(path, front.source, front.checksum) or package_problem(path, front)


def _further(name: Any, value: Any) -> str:
    path = f"pillar chefha:frontend:settings has {name!r}"
    if not LINE.fullmatch(str(name)):
        return f"{path}; expected the left side of a line of chef-server.rb, such as nginx['ssl_port']"
    if owned := _owned(str(name)):
        instead = f"set chefha:{OWNED[owned]} instead" if OWNED[owned] else "remove it"
        return f"{path}; chefha writes {owned} itself, and the back end rests on it: {instead}"
    if name in VALUES and value not in VALUES[name]:
        accepted = " or ".join(map(str, VALUES[name]))
        return f"{path}: {value!r}; a Chef Infra Server with this back end accepts {accepted}"
    return ""


def _owned(name: str) -> str:
    """The line of chefha's that this one would replace, in whole or in part; "" if none."""
    return next((own for own in OWNED if f"{own}[".startswith(f"{name}[") or name.startswith(f"{own}[")), "")


def accepted(settings: Settings) -> str:
    """where there are `frontends` and `frontend:check_versions` is true, their Chef Infra Server accepts the versions
    of PostgreSQL and search."""
    if not (settings.frontends and settings.frontend.check_versions):
        return ""
    version, text = version_of(settings), settings.frontend.chef_server_version
    if version < OLDEST:
        path = "pillar chefha:frontend:chef_server_version"
        return f"{path} is {text!r}; expected a release such as 15.10.117, 12.4 or newer"
    server = f"Chef Infra Server {text} (pillar chefha:frontend:chef_server_version)"
    return _postgresql(settings, version, server) or _search(settings, version, server)


def _postgresql(settings: Settings, version: tuple[int, ...], server: str) -> str:
    newest = next(major for since, major in POSTGRESQL if version >= since)
    if settings.postgresql.version <= newest:
        return ""
    later = "".join(
        f" ({major} from {'.'.join(map(str, since))})"
        for since, major in POSTGRESQL
        if version < since and settings.postgresql.version <= major
    )
    return (
        f"pillar chefha:postgresql:version is {settings.postgresql.version}, and {server} accepts PostgreSQL up to "
        f"{newest}{later}; set chefha:postgresql:version to {newest}, {_ANYWAY}"
    )


def _search(settings: Settings, version: tuple[int, ...], server: str) -> str:
    search = settings.search
    if search.flavor not in SEARCH:
        return (
            f"pillar chefha:search:flavor is {search.flavor}, and {server} needs a search; set it to opensearch or "
            f"elasticsearch, {_ANYWAY}"
        )
    since, majors = SEARCH[search.flavor]
    if version < since:
        return (
            f"pillar chefha:search:flavor is {search.flavor}, which Chef Infra Server accepts from "
            f"{'.'.join(map(str, since))} on, and {server} is older; set it to elasticsearch, {_ANYWAY}"
        )
    if search.version.split(".")[0] not in map(str, majors):
        known = ", ".join(map(str, majors))
        return (
            f"pillar chefha:search:version is {search.version}, and {server} accepts {search.flavor} {known}; set one "
            f"of these, {_ANYWAY}"
        )
    if has_opensearch_form(settings) and not settings.frontend.search_username:
        return (
            f"pillar chefha:frontend:search_username is empty, and {server} refuses OpenSearch without a user and a "
            "password, even where the search asks for none; expected any name"
        )
    return ""


CHECKS = (front_ends, accepted)
