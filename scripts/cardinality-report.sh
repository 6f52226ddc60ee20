#!/usr/bin/env sh
# What costs most in Prometheus: names with most series, labels with most values, pairs, and how much each job adds.
#
#   scripts/cardinality-report.sh [--dry-run] [N]     the N largest of each, 10 without
#   PROMETHEUS_URL=http://localhost:9091
set -eu

prometheus=${PROMETHEUS_URL:-http://localhost:9091}
dry_run=no
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
most=${1:-10}
case "$most" in
*[!0-9]* | "")
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac

if [ "$dry_run" = yes ]; then
    echo "would ask $prometheus/api/v1/status/tsdb for the $most largest names, labels and pairs, and for series by job"
    exit 0
fi

status=$(curl --fail --silent --show-error --max-time 30 "$prometheus/api/v1/status/tsdb?limit=$most")
ask() {
    curl --fail --silent --show-error --max-time 30 --get "$prometheus/api/v1/query" --data-urlencode "query=$1"
}
table() {
    echo
    echo "$1"
    printf '%s' "$status" | jq -r --argjson most "$most" ".data.$2[:\$most][] | \"  \(.value)\t\(.name)\"" | expand -t 12
}

printf '%s' "$status" | jq -r '.data.headStats | "\(.numSeries) series, \(.chunkCount) chunks"'
table "series by name" seriesCountByMetricName
table "values by label" labelValueCountByLabelName
table "series by pair" seriesCountByLabelValuePair
echo
echo "series by job"
jobs=$(ask 'sort_desc(sum by (job) (scrape_samples_post_metric_relabeling))')
printf '%s' "$jobs" | jq -r '.data.result[] | "  \(.value[1])\t\(.metric.job)"' | expand -t 12
echo
echo "labels that were cut off in the last day (metrics.max_label_values)"
labels=$(ask 'sum by (service, label) (increase(observability_label_overflow_total[1d])) > 0')
printf '%s' "$labels" | jq -r '.data.result[] | "  \(.value[1])\t\(.metric.service) \(.metric.label)"' | expand -t 12
