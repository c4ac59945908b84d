"""Which parameters of PostgreSQL a pillar may set, and which failover or a setting of its own has."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: parameter -> setting that has it
ELSEWHERE = {
    "port": "port",
    "data_directory": "data_dir",
    "max_connections": "max_connections",
    "max_replication_slots": "max_replication_slots",
    "max_wal_senders": "max_wal_senders",
    "shared_buffers": "shared_buffers_mb",
    "wal_keep_size": "wal_keep_size_mb",
    "max_slot_wal_keep_size": "max_slot_wal_keep_size_mb",
}
#: parameters that failover or durability rest on: nobody else may set them
OWNED = frozenset(
    """
    allow_alter_system cluster_name config_file external_pid_file fsync full_page_writes hba_file hot_standby
    ident_file include include_dir include_if_exists lc_messages listen_addresses log_destination logging_collector
    password_encryption primary_conninfo primary_slot_name promote_trigger_file recovery_min_apply_delay
    recovery_target recovery_target_action recovery_target_inclusive recovery_target_lsn recovery_target_name
    recovery_target_time recovery_target_timeline recovery_target_xid restart_after_crash restore_command ssl
    ssl_ca_file ssl_cert_file ssl_key_file superuser_reserved_connections synchronous_commit
    synchronous_standby_names sync_replication_slots unix_socket_directories unix_socket_group
    unix_socket_permissions update_process_title wal_level wal_log_hints wal_receiver_status_interval
    wal_receiver_timeout wal_retrieve_retry_interval wal_sender_timeout zero_damaged_pages
    """.split()
)


def refused_parameter(parameters: Mapping[str, Any]) -> str:
    """Why ``postgresql:parameters`` cannot be accepted, one sentence; "" if it can."""
    for name, value in parameters.items():
        plain = str(name).lower()
        if plain in ELSEWHERE:
            return f"pillar chefha:postgresql:parameters sets {name}; set chefha:postgresql:{ELSEWHERE[plain]} instead"
        if plain in OWNED:
            return f"pillar chefha:postgresql:parameters sets {name}, which failover rests on; remove it"
        if not plain.replace("_", "").replace(".", "").isalnum():
            return f"pillar chefha:postgresql:parameters has {name!r}, which is no name of a parameter"
        if not isinstance(value, (str, int, float)) or re.search(r"[\n\r\0]", str(value)):
            return f"pillar chefha:postgresql:parameters:{name} is {value!r}; expected one text, number or boolean"
    return ""
