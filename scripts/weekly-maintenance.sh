#!/usr/bin/env sh
# The maintenance of the week: old log indices, the state of Prometheus' store, a snapshot of it, old images, the backup.
# Stops at the first error.
#
#   scripts/weekly-maintenance.sh [--dry-run]
#   ELASTICSEARCH_URL= (when set: indices older than KEEP_DAYS=30)   PROMETHEUS_URL=http://localhost:9091
#   PROMETHEUS_DATA= (when set: promtool tsdb analyze)   BACKUP_DIR= (when set: verify-backup.sh)   PRUNE=no (yes: docker or crictl)
#   SNAPSHOT=no (yes: of a Prometheus with --web.enable-admin-api, which is for one that no browser reaches)
set -eu

prometheus=${PROMETHEUS_URL:-http://localhost:9091}
keep_days=${KEEP_DAYS:-30}
here=$(cd "$(dirname "$0")" && pwd)
dry_run=no
case "${1:-}" in
"") ;;
--dry-run) dry_run=yes ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

run() {
    if [ "$dry_run" = yes ]; then
        echo "  would run: $*"
    else
        "$@"
    fi
}

echo "== weekly maintenance, $(date -u +%Y-%m-%dT%H:%MZ)"

echo "== log indices older than $keep_days days"
if [ -n "${ELASTICSEARCH_URL:-}" ]; then
    # The policy of 30 days deletes them by itself; this finds what it has missed. Each index by its name: no wildcard deletes.
    oldest=$(date -u -d "$keep_days days ago" +%Y%m%d)
    indices=$(curl --fail --silent --show-error --max-time 30 "$ELASTICSEARCH_URL/_cat/indices/ai-textbook-*?h=index&format=json")
    printf '%s' "$indices" | jq -r '.[].index' | while read -r index; do
        day=$(echo "$index" | sed -n 's/.*-\([0-9]\{4\}\)\.\([0-9]\{2\}\)\.\([0-9]\{2\}\)$/\1\2\3/p')
        if [ -n "$day" ] && [ "$day" -lt "$oldest" ]; then
            run curl --fail --silent --show-error --max-time 60 -X DELETE "$ELASTICSEARCH_URL/$index"
        fi
    done
else
    echo "  ELASTICSEARCH_URL is not set: none"
fi

echo "== Prometheus"
if [ -n "${PROMETHEUS_DATA:-}" ]; then
    run promtool tsdb analyze --limit=10 "$PROMETHEUS_DATA"
fi
# Prometheus compacts by itself, all the time; what a person does is a snapshot, which is a consistent copy.
if [ "${SNAPSHOT:-no}" = yes ]; then
    run curl --fail --silent --show-error --max-time 300 -X POST "$prometheus/api/v1/admin/tsdb/snapshot"
    echo
else
    echo "  SNAPSHOT is not yes: none"
fi

echo "== images that nothing has used for a week"
if [ "${PRUNE:-no}" = yes ]; then
    if command -v docker >/dev/null 2>&1; then
        run docker image prune --all --force --filter until=168h
    else
        run crictl rmi --prune
    fi
else
    echo "  PRUNE is not yes: kept"
fi

echo "== backup"
if [ -n "${BACKUP_DIR:-}" ]; then
    run "$here/verify-backup.sh" "$BACKUP_DIR"
else
    echo "  BACKUP_DIR is not set: not checked"
fi

echo "== done"
