#!/bin/sh
# Restarts salt-master as soon as no job is under way, after 15 minutes in any case.
for _ in $(seq 300); do
    sleep 1
    [ "$(salt-run --out=json jobs.active 2>/dev/null | tr -d '[:space:]')" = "{}" ] && break
done
exec systemctl restart salt-master.service
