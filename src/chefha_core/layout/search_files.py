"""The files of the search engine on a member, as pure functions of the settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from chefha_core.checked import SettingsError
from chefha_core.search_engine import CACHE, CONFIG, START, USER, engine_of
from chefha_core.settings import Search, Settings

#: MiB: above it Java's pointers get longer, and the heap holds less
MOST_HEAP = 31 * 1024
LEAST_HEAP = 128

UNIT_TEXT = """\
[Unit]
Description={flavor} of the chefha cluster
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=simple
User={user}
Group={user}
{groups}Environment={prefix}_PATH_CONF={config} {prefix}_TMPDIR={cache}{java}
EnvironmentFile=-{start}
# as root: the settings hold secrets. It writes SEARCH_COMMAND, see docs/search.md
ExecStartPre=+{python} -m chefha_core.search_start --name {name}
ExecStart=/bin/sh -c 'exec $$SEARCH_COMMAND'
# 143: how Java ends when it is asked to
SuccessExitStatus=143
Restart=on-failure
RestartSec=5
KillMode=mixed
TimeoutStopSec=60
LimitNOFILE=65536
LimitNPROC=4096
LimitMEMLOCK=infinity
LimitAS=infinity
LimitFSIZE=infinity
CacheDirectory=chefha-search
CacheDirectoryMode=0700
UMask=0077
# search gives way: when memory is short it ends before PostgreSQL and etcd, and they are served first
OOMScoreAdjust=500
CPUWeight=50
IOWeight=50
NoNewPrivileges=yes
PrivateTmp=yes
ProtectHome=yes
ProtectSystem=full
ReadWritePaths={config} {data} {logs}

[Install]
WantedBy=multi-user.target
"""

LOG_TEXT = """\
# Written by chefha's states. One file a day, at most 128 MB each and 1 GB in all; the start also in the journal.
status = error

appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%-5p][%c{{1.}}] [%node_name]%marker %m%n
appender.console.filter.threshold.type = ThresholdFilter
appender.console.filter.threshold.level = warn

appender.rolling.type = RollingFile
appender.rolling.name = rolling
appender.rolling.fileName = {logs}/{cluster}.log
appender.rolling.filePattern = {logs}/{cluster}-%d{{yyyy-MM-dd}}-%i.log.gz
appender.rolling.layout.type = PatternLayout
appender.rolling.layout.pattern = [%d{{ISO8601}}][%-5p][%-25c{{1.}}] [%node_name]%marker %m%n
appender.rolling.policies.type = Policies
appender.rolling.policies.time.type = TimeBasedTriggeringPolicy
appender.rolling.policies.time.interval = 1
appender.rolling.policies.time.modulate = true
appender.rolling.policies.size.type = SizeBasedTriggeringPolicy
appender.rolling.policies.size.size = 128MB
appender.rolling.strategy.type = DefaultRolloverStrategy
appender.rolling.strategy.fileIndex = nomax
appender.rolling.strategy.action.type = Delete
appender.rolling.strategy.action.basepath = {logs}
appender.rolling.strategy.action.condition.type = IfFileName
appender.rolling.strategy.action.condition.glob = {cluster}-*
appender.rolling.strategy.action.condition.nested_condition.type = IfAccumulatedFileSize
appender.rolling.strategy.action.condition.nested_condition.exceeds = 1GB

rootLogger.level = info
rootLogger.appenderRef.console.ref = console
rootLogger.appenderRef.rolling.ref = rolling
"""


#: a node that hangs is left out after 15 s instead of 30: three checks in a row without an answer
_CHECKS = {
    "leader_check.interval": "1s",
    "leader_check.timeout": "5s",
    "follower_check.interval": "1s",
    "follower_check.timeout": "5s",
}


def config_text(settings: Settings, name: str) -> str:
    """opensearch.yml or elasticsearch.yml. JSON is YAML."""
    search = settings.search
    rows: dict[str, Any] = {
        "cluster.name": settings.cluster,
        "node.name": name,
        "path.data": search.data_dir,
        "path.logs": search.log_dir,
        "network.host": settings.members[name],
        "http.bind_host": "0.0.0.0",  # the virtual address comes and goes
        "http.port": search.port,
        "transport.port": search.transport_port,
        "discovery.seed_hosts": [
            f"{address}:{search.transport_port}" for _, address in sorted(settings.members.items())
        ],
    }
    rows |= {f"cluster.fault_detection.{check}": value for check, value in _CHECKS.items()} | search.parameters
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in rows.items()]
    return "# Written by chefha's states: changes here are lost, use chefha:search:parameters\n" + "".join(lines)


def java_options(search: Search, memory_mb: int) -> str:
    """jvm.options.d/chefha.options: what comes on top of the maker's own."""
    heap = heap_mb(search, memory_mb)
    lines = [
        f"-Xms{heap}m",
        f"-Xmx{heap}m",
        f"-XX:HeapDumpPath={search.log_dir}",
        f"-XX:ErrorFile={search.log_dir}/hs_err_pid%p.log",
        *search.java_opts,
    ]
    return "\n".join(lines) + "\n"


def heap_mb(search: Search, memory_mb: int) -> int:
    """MiB of heap on a machine with ``memory_mb``; SettingsError if the pillar wants more than there is."""
    if search.heap_mb is None:
        return max(LEAST_HEAP, min(memory_mb // 3, MOST_HEAP))
    if search.heap_mb >= memory_mb:
        raise SettingsError(
            f"pillar chefha:search:heap_mb is {search.heap_mb} and this machine has {memory_mb} MiB of memory; "
            f"expected less, or none for a third of it"
        )
    return search.heap_mb


def log_text(settings: Settings) -> str:
    """log4j2.properties."""
    return LOG_TEXT.format(logs=settings.search.log_dir, cluster=settings.cluster)


def unit_text(settings: Settings, name: str, python: str = sys.executable) -> str:
    """The systemd unit."""
    search = settings.search
    return UNIT_TEXT.format(
        flavor=search.flavor,
        user=USER,
        # a package's plugins read their own configuration, which belongs to the package's group
        groups=f"SupplementaryGroups={search.flavor}\n" if search.source.package else "",
        prefix=engine_of(search).prefix,
        # else it is found at each start
        java=f" {engine_of(search).prefix}_JAVA_HOME={search.java_home}" if search.java_home else "",
        config=CONFIG,
        cache=CACHE,
        start=START,
        python=Path(python),
        name=name,
        data=search.data_dir,
        logs=search.log_dir,
    )
