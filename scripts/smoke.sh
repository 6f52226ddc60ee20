#!/usr/bin/env sh
# Starts the stack with the demo, waits for it, and looks whether everything has arrived. Leaves it running; --down ends it.
#
#   scripts/smoke.sh [--dry-run | --down]
set -eu

cd "$(dirname "$0")/.."
compose="docker compose --profile demo"
patience=180

case "${1:-}" in
"") ;;
--dry-run)
    echo "would run: $compose up --build --detach --wait"
    echo "would ask http://localhost:9090/metrics for sage_ metrics, http://localhost:9091 for targets that are up and samples,"
    echo "http://localhost:3000 for its health and dashboards, http://localhost:16686 for services, http://localhost:3100 for lines"
    exit 0
    ;;
--down) exec $compose down --volumes ;;
*)
    sed -n '2,4s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

$compose up --build --detach --wait

# try WHAT URL JQ: until the answer is what it should be, or patience ends.
try() {
    end=$(($(date +%s) + patience))
    until curl --fail --silent --max-time 5 "$2" | jq -e "$3" >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge "$end" ]; then
            echo "FAILED $1: $2"
            exit 1
        fi
        sleep 2
    done
    echo "ok     $1"
}

if curl --fail --silent http://localhost:9090/metrics | grep -q '^sage_'; then
    echo "ok     /metrics of sage-backend"
else
    echo "FAILED /metrics of sage-backend: http://localhost:9090/metrics"
    exit 1
fi
targets=http://localhost:9091/api/v1/targets
try "targets are up" "$targets" '[.data.activeTargets[] | select(.health != "up")] == [] and (.data.activeTargets | length >= 4)'
try "samples" "http://localhost:9091/api/v1/query?query=sage_sessions_active" '.data.result | length > 0'
try "rules" "http://localhost:9091/api/v1/rules" '.data.groups | length > 0'
try "Grafana" http://localhost:3000/api/health '.database == "ok"'
try "dashboards" "http://localhost:3000/api/search?tag=sage-fastapi-obs" 'length >= 10'
try "traces" http://localhost:16686/api/services '.data | index("sage-backend") != null'
try "lines" "http://localhost:3100/loki/api/v1/label/service/values" '.data | index("sage-backend") != null'
echo "dashboards: http://localhost:3000  metrics: http://localhost:9091  traces: http://localhost:16686"
