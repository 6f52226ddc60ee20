#!/usr/bin/env sh
# The check of the morning: targets, alerts of the night, disks, backup, errors. Exit code 1 when something needs a look.
#
#   scripts/daily-check.sh [--dry-run]
#   PROMETHEUS_URL=http://localhost:9091  ALERTMANAGER_URL=http://localhost:9093
#   BACKUP_DIR=  (checked when set)       DISK_LIMIT=80 (percent)  ERRORS_LIMIT=100 (failed requests since yesterday)
set -eu

prometheus=${PROMETHEUS_URL:-http://localhost:9091}
alertmanager=${ALERTMANAGER_URL:-http://localhost:9093}
disk_limit=${DISK_LIMIT:-80}
errors_limit=${ERRORS_LIMIT:-100}
here=$(cd "$(dirname "$0")" && pwd)
wrong=0

case "${1:-}" in
"") ;;
--dry-run)
    echo "would ask $prometheus for targets that are down, alerts of the last 12 hours, disks of all hosts that are fuller than $disk_limit %,"
    echo "and failed requests of the last 24 hours"
    echo "would ask $alertmanager whether it is ready"
    echo "would run $here/verify-backup.sh on BACKUP_DIR=${BACKUP_DIR:-(not set: no)}"
    exit 0
    ;;
*)
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

ask() {
    curl --fail --silent --show-error --max-time 10 --get "$prometheus/api/v1/query" --data-urlencode "query=$1"
}

ok() { echo "ok     $1"; }
look() {
    echo "LOOK   $1"
    wrong=1
}

if down=$(ask 'up == 0'); then
    names=$(printf '%s' "$down" | jq -r '.data.result[].metric | "\(.job) \(.instance)"')
    if [ -z "$names" ]; then
        ok "all $(ask 'count(up)' | jq -r '.data.result[0].value[1] // 0') targets are up"
    else
        printf '%s\n' "$names" | while read -r name; do echo "LOOK   down: $name"; done
        wrong=1
    fi
else
    look "Prometheus does not answer at $prometheus"
    exit 1
fi

# The watchdog always fires.
night='ALERTS{alertstate="firing", alertname!="Watchdog"}[12h]'
if fired=$(ask "count by (alertname, severity) (count_over_time($night))"); then
    names=$(printf '%s' "$fired" | jq -r '.data.result[].metric | "\(.severity) \(.alertname)"' | sort)
    if [ -z "$names" ]; then
        ok "no alert fired in the last 12 hours"
    else
        printf '%s\n' "$names" | while read -r severity name; do echo "LOOK   $severity alert of the night: $name (docs/runbooks/$name.md)"; done
        wrong=1
    fi
else
    look "Prometheus does not say which alerts fired in the last 12 hours"
fi

if curl --fail --silent --max-time 10 --output /dev/null "$alertmanager/-/ready"; then
    ok "Alertmanager is ready"
else
    look "Alertmanager does not answer at $alertmanager: nobody is told of alerts"
fi

# As in the alert HighDiskUsage. A comparison leaves nothing where all is well, and nothing where nobody measures.
disks='{fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660"}'
used="100 - 100 * min by (instance, mountpoint) (node_filesystem_avail_bytes$disks / node_filesystem_size_bytes$disks)"
if full=$(ask "round($used) >= $disk_limit") && measured=$(ask "count($used)"); then
    names=$(printf '%s' "$full" | jq -r '.data.result[] | "disk \(.metric.mountpoint) of \(.metric.instance) is \(.value[1]) % full"')
    number=$(printf '%s' "$measured" | jq -r '.data.result[0].value[1] // 0')
    if [ "$number" = 0 ]; then
        look "nobody measures disks: is node-exporter scraped?"
    elif [ -z "$names" ]; then
        ok "all $number disks are below $disk_limit %"
    else
        printf '%s\n' "$names" | while read -r name; do echo "LOOK   $name"; done
        wrong=1
    fi
else
    look "Prometheus does not say how full disks are"
fi

if failed=$(ask 'round(sum(increase(http_requests_total{status=~"5.."}[24h])) or vector(0))'); then
    failed=$(printf '%s' "$failed" | jq -r '.data.result[0].value[1]')
    if [ "${failed%.*}" -le "$errors_limit" ]; then
        ok "$failed requests failed in 24 hours"
    else
        look "$failed requests failed in 24 hours: scripts/log-query.sh --level error"
    fi
else
    look "Prometheus does not say how many requests failed in 24 hours"
fi

if [ -n "${BACKUP_DIR:-}" ]; then
    "$here/verify-backup.sh" "$BACKUP_DIR" || wrong=1
fi

exit "$wrong"
