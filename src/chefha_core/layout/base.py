"""What every member needs before the services: packages, certificates, the checked settings."""

from __future__ import annotations

import json
from dataclasses import replace

from chefha_core.layout.wish import CONFIG, DATA, Wish, folder, masked, reloaded, text_file
from chefha_core.settings import SECRETS_OF, SETTINGS_FILE, Backup, Secrets, Settings

CREATE_CLUSTER = "/etc/postgresql-common/createcluster.conf"


def settings_files(settings: Settings, name: str) -> list[Wish]:
    """The checked pillar, for leaderl, the beacon and the verbs; a front end keeps no secret that it does not need."""
    tree = (settings if name in settings.members else for_front_end(settings)).to_dict()
    for text in ("ca", "certificate", "key"):  # stand in files of their own, which may change without a restart
        del tree["tls"][text]
    text = json.dumps(tree, indent=2, sort_keys=True)
    return [folder(CONFIG), text_file(str(SETTINGS_FILE), text, mode="0600", secret=True)]


def for_front_end(settings: Settings) -> Settings:
    """The settings with a front end's secrets only, whatever its pillar has."""
    secrets = Secrets(**{name: getattr(settings.secrets, name) for name in SECRETS_OF["frontend"]})
    return replace(settings, secrets=secrets, tls=replace(settings.tls, certificate="", key=""), backup=Backup())


def package_names(settings: Settings) -> list[str]:
    """Debian's packages of a member."""
    version = settings.postgresql.version
    etcd = [] if settings.etcd_endpoints else ["etcd-server", "etcd-client"]
    return [f"postgresql-{version}", f"postgresql-client-{version}", "iproute2", "zstd", *etcd]


def packages(settings: Settings, name: str) -> list[Wish]:
    """Debian's packages, none of whose own services may start: first masked, then installed."""
    masks = [masked("postgresql.service")] + ([] if settings.etcd_endpoints else [masked("etcd.service")])
    return [
        folder("/etc/postgresql-common"),
        text_file(CREATE_CLUSTER, "create_main_cluster = false\n"),
        *masks,
        Wish(
            "pkg.installed",
            {"name": "chefha", "pkgs": package_names(settings), "refresh": None, "install_recommends": False},
        ),
        folder(DATA),
    ]


def tls_files(settings: Settings, name: str) -> list[Wish]:
    """The certificates; the key once per user that reads it (root reads both).

    etcd reads them for each connection, leaderl when they have changed, PostgreSQL when it is told.
    """
    tls = settings.tls
    if not tls.enabled:
        return []
    keys = {"server.key": "postgres"} | ({} if settings.etcd_endpoints else {"etcd.key": "etcd"})
    return [
        folder(tls.directory),
        text_file(f"{tls.directory}/ca.crt", tls.ca),
        text_file(f"{tls.directory}/server.crt", tls.certificate),
        *(text_file(f"{tls.directory}/{file}", tls.key, user, "0600", secret=True) for file, user in keys.items()),
        reloaded("chefha-postgresql.service"),
    ]
