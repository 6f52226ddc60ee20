#!/usr/bin/env sh
# The maintenance of the week: the backup, old log indices, the state of Prometheus' store, a snapshot of it, old images.
# A step that fails does not stop the others; the last line sums up, and the exit code is 1.
#
#   scripts/weekly-maintenance.sh [--dry-run]
#   BACKUP_DIR= (when set: verify-backup.sh)   ELASTICSEARCH_URL= (when set: indices older than KEEP_DAYS=30)
#   PROMETHEUS_DATA= (its folder, when set: promtool tsdb analyze)   PROMETHEUS_URL=http://localhost:9091
#   IN_PROMETHEUS= (empty where its folder is on this machine; else what runs a command beside it, such as
#     "docker compose exec -T prometheus" or "kubectl -n monitoring exec prometheus-0 -c prometheus --")
#   SNAPSHOT=no (yes: with --web.enable-admin-api, for a Prometheus that no browser reaches)   KEEP_SNAPSHOTS=2 (in PROMETHEUS_DATA)
#   PRUNE=no (docker: images of this machine; crictl: images of this node; a pod or a node of Kubernetes prunes by itself)
set -u

prometheus=${PROMETHEUS_URL:-http://localhost:9091}
keep_days=${KEEP_DAYS:-30}
keep_snapshots=${KEEP_SNAPSHOTS:-2}
here=$(cd "$(dirname "$0")" && pwd)
dry_run=no
failed=""
case "${1:-}" in
"") ;;
--dry-run) dry_run=yes ;;
*)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
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

# step NAME FUNCTION: do it, and remember when it fails.
step() {
    echo "== $1"
    "$2" && return
    echo "  FAILED: $1"
    failed="$failed${failed:+, }$1"
}

in_prometheus() {
    # Several words are meant.
    # shellcheck disable=SC2086
    run ${IN_PROMETHEUS:-} "$@"
}

check_backup() {
    if [ -n "${BACKUP_DIR:-}" ]; then
        run "$here/verify-backup.sh" "$BACKUP_DIR"
    else
        echo "  BACKUP_DIR is not set: not checked"
    fi
}

delete_old_indices() {
    if [ -z "${ELASTICSEARCH_URL:-}" ]; then
        echo "  ELASTICSEARCH_URL is not set: none"
        return
    fi
    # The policy of 30 days deletes them by itself; this finds what it has missed. Each index by its name: no wildcard deletes.
    oldest=$(date -u -d "$keep_days days ago" +%Y%m%d)
    indices=$(curl --fail --silent --show-error --max-time 30 "$ELASTICSEARCH_URL/_cat/indices/ai-textbook-*?h=index&format=json") || return 1
    names=$(printf '%s' "$indices" | jq -r '.[].index') || return 1
    wrong=0
    for index in $names; do
        day=$(echo "$index" | sed -n 's/.*-\([0-9]\{4\}\)\.\([0-9]\{2\}\)\.\([0-9]\{2\}\)\(-[0-9]*\)\{0,1\}$/\1\2\3/p')
        if [ -n "$day" ] && [ "$day" -lt "$oldest" ]; then
            run curl --fail --silent --show-error --max-time 60 -X DELETE "$ELASTICSEARCH_URL/$index" || wrong=1
        fi
    done
    return "$wrong"
}

analyze_store() {
    if [ -z "${PROMETHEUS_DATA:-}" ]; then
        echo "  PROMETHEUS_DATA is not set: not analyzed"
    elif [ "$dry_run" = no ] && [ -z "$(in_prometheus find "$PROMETHEUS_DATA" -maxdepth 2 -name meta.json)" ]; then
        echo "  there is no block yet: Prometheus writes the first after two hours"
    else
        in_prometheus promtool tsdb analyze --limit=10 "$PROMETHEUS_DATA"
    fi
}

# Prometheus compacts by itself, all the time; what a person does is a snapshot, which is a consistent copy.
take_snapshot() {
    if [ "${SNAPSHOT:-no}" != yes ]; then
        echo "  SNAPSHOT is not yes: none"
        return
    fi
    run curl --fail --silent --show-error --max-time 300 -X POST "$prometheus/api/v1/admin/tsdb/snapshot" || {
        echo "  it needs --web.enable-admin-api (kube-prometheus-stack: prometheusSpec.enableAdminAPI)"
        return 1
    }
    echo
    delete_old_snapshots
}

# A snapshot holds the blocks that Prometheus has deleted since.
delete_old_snapshots() {
    if [ -z "${PROMETHEUS_DATA:-}" ]; then
        echo "  PROMETHEUS_DATA is not set: older snapshots are kept"
        return
    fi
    # Its name begins with its time. $1 and $2 are for the shell beside Prometheus.
    # shellcheck disable=SC2016
    in_prometheus sh -c 'ls -d "$1"/snapshots/[0-9]*T* | sort -r | tail -n "+$(($2 + 1))" | while read -r old; do rm -r -- "$old" && echo "  deleted $old"; done' \
        delete "$PROMETHEUS_DATA" "$keep_snapshots"
}

prune_images() {
    case "${PRUNE:-no}" in
    no) echo "  PRUNE is no: kept" ;;
    docker | yes) run docker image prune --all --force --filter until=168h ;;
    crictl) run crictl rmi --prune ;;
    *)
        echo "  PRUNE is no, docker or crictl, not $PRUNE"
        return 1
        ;;
    esac
}

echo "== weekly maintenance, $(date -u +%Y-%m-%dT%H:%MZ)"
step "backup" check_backup
step "log indices older than $keep_days days" delete_old_indices
step "store of Prometheus" analyze_store
step "snapshot of Prometheus" take_snapshot
step "images that nothing has used for a week" prune_images
if [ -n "$failed" ]; then
    echo "== done, but FAILED: $failed"
    exit 1
fi
echo "== done"
