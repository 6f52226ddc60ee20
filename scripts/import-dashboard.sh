#!/usr/bin/env sh
# Sends dashboards to a Grafana that does not load them from files.
#
#   scripts/import-dashboard.sh [--dry-run] FILE…     without FILE: all of grafana/dashboards
#   GRAFANA_URL=http://localhost:3000  GRAFANA_API_KEY=… (of a service account that may edit)
set -eu

grafana=${GRAFANA_URL:-http://localhost:3000}
root=$(cd "$(dirname "$0")/.." && pwd)
dry_run=no
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
[ $# -gt 0 ] || set -- "$root"/grafana/dashboards/*.json

headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
if [ "$dry_run" = no ]; then
    # In a file: arguments are seen by everybody on the machine.
    printf 'Authorization: Bearer %s\n' "${GRAFANA_API_KEY:?is needed: make a service account in Grafana}" >"$headers"
fi

for file in "$@"; do
    if [ "$dry_run" = yes ]; then
        echo "would POST $(jq -r .title "$file") to $grafana/api/dashboards/db"
        continue
    fi
    printf '%s: ' "$(basename "$file")"
    # The file holds the bare dashboard; the API wants it wrapped, and without a number of its own.
    answer=$(jq '{dashboard: (. + {id: null}), overwrite: true, message: "sage-obs export grafana"}' "$file" |
        curl --fail-with-body --silent --show-error --max-time 30 -H "@$headers" -H "Content-Type: application/json" \
            --data-binary @- "$grafana/api/dashboards/db") || {
        printf '%s\n' "$answer"
        exit 1
    }
    printf '%s' "$answer" | jq -r '.status + " " + .url'
done
