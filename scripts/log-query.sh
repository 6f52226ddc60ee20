#!/usr/bin/env sh
# Finds log lines in Loki, in Elasticsearch, or in S3 through Athena; prints them as JSON, the newest first.
#
#   scripts/log-query.sh [--dry-run] [--in loki|elasticsearch|athena] [--service NAME] [--level LEVEL] [--id ID] [--since 1h] [--most 100]
#   --id: a correlation, request or trace id.  --since: 30m, 6h, 2d
#   LOKI_URL=http://localhost:3100  ELASTICSEARCH_URL=http://localhost:9200  ATHENA_OUTPUT=s3://… (for answers)
set -eu

store=loki service="" level="" id="" since=1h most=100 dry_run=no
usage() {
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
while [ $# -gt 0 ]; do
    case "$1" in
    --dry-run) dry_run=yes && shift && continue ;;
    --in | --service | --level | --id | --since | --most) [ $# -ge 2 ] || usage ;;
    *) usage ;;
    esac
    case "$1" in
    --in) store=$2 ;;
    --service) service=$2 ;;
    --level) level=$2 ;;
    --id) id=$2 ;;
    --since) since=$2 ;;
    --most) most=$2 ;;
    esac
    shift 2
done

# What goes into a query must be nothing but a word: no query can be smuggled in.
for word in "$service" "$level" "$id" "$since" "$most"; do
    case "$word" in
    *[!A-Za-z0-9_.:-]*) echo "not a plain word: $word" >&2 && exit 2 ;;
    esac
done
number=${since%[smhd]}
case "$since" in
*s) seconds=$number ;;
*m) seconds=$((number * 60)) ;;
*h) seconds=$((number * 3600)) ;;
*d) seconds=$((number * 86400)) ;;
*) usage ;;
esac

run() {
    if [ "$dry_run" = yes ]; then
        echo "would run: $*"
    else
        "$@"
    fi
}

# shown JQ…: an answer as jq writes it; of a dry run what would be asked.
shown() {
    if [ "$dry_run" = yes ]; then
        printf '%s\n' "$answer"
    else
        printf '%s' "$answer" | jq "$@"
    fi
}

# wait_for_athena ID: returns when the query has succeeded; fails, and says why, when it has not within two minutes.
wait_for_athena() {
    tries=120
    while [ "$tries" -gt 0 ]; do
        status=$(aws athena get-query-execution --query-execution-id "$1" --query QueryExecution.Status --output json)
        case "$(printf '%s' "$status" | jq -r .State)" in
        SUCCEEDED) return 0 ;;
        QUEUED | RUNNING) sleep 1 ;;
        *) echo "Athena did not run query $1: $(printf '%s' "$status" | jq -r '.StateChangeReason // .State')" >&2 && return 1 ;;
        esac
        tries=$((tries - 1))
    done
    echo "Athena is still running query $1: ask for it later with aws athena get-query-results" >&2
    return 1
}

case "$store" in
loki)
    query="{service=~\"${service:-.+}\"${level:+, level=\"$level\"}}${id:+ |= \"$id\"}"
    answer=$(run curl --fail --silent --show-error --max-time 60 --get "${LOKI_URL:-http://localhost:3100}/loki/api/v1/query_range" \
        --data-urlencode "query=$query" --data-urlencode "since=${seconds}s" --data-urlencode "limit=$most")
    shown -r '[.data.result[].values[]] | sort_by(.[0]) | reverse[] | .[1]'
    ;;
elasticsearch)
    body=$(jq -n --arg service "$service" --arg level "$level" --arg id "$id" --arg since "now-${seconds}s" --argjson most "$most" '
        def term(field; value): if value == "" then [] else [{term: {(field): value}}] end;
        def any(value): if value == "" then [] else
            [{multi_match: {query: value, fields: ["correlation_id", "request_id", "trace_id"]}}] end;
        {size: $most, sort: [{"@timestamp": "desc"}], query: {bool: {must: (
            term("service.keyword"; $service) + term("level"; $level) + any($id) + [{range: {"@timestamp": {gte: $since}}}])}}}')
    answer=$(run curl --fail --silent --show-error --max-time 60 -H "Content-Type: application/json" \
        "${ELASTICSEARCH_URL:-http://localhost:9200}/ai-textbook-*/_search" --data-raw "$body")
    shown -c '.hits.hits[]._source'
    ;;
athena)
    from=$(($(date +%s) - seconds))
    # Times in lines are UTC and of one width, so they compare as text. `day` keeps Athena from reading, and charging for, older files.
    where="\"day\" >= '$(date -u -d "@$from" +%Y/%m/%d)' AND \"timestamp\" >= '$(date -u -d "@$from" +%Y-%m-%dT%H:%M:%S)'"
    # The quotes are SQL's.
    # shellcheck disable=SC2016
    where="$where${service:+ AND \"service\" = '$service'}${level:+ AND \"level\" = '$level'}"
    # shellcheck disable=SC2016
    where="$where${id:+ AND '$id' IN (\"correlation_id\", \"request_id\", \"trace_id\")}"
    columns='"timestamp", "level", "message", "correlation_id"'
    sql="SELECT $columns FROM tastesync_logs.customer_id WHERE $where ORDER BY \"timestamp\" DESC LIMIT $most"
    set -- --query-string "$sql" --result-configuration "OutputLocation=${ATHENA_OUTPUT:-s3://tastesync-logs/athena/}"
    if [ "$dry_run" = yes ]; then
        run aws athena start-query-execution "$@"
    else
        query=$(aws athena start-query-execution "$@" --query QueryExecutionId --output text)
        wait_for_athena "$query"
        aws athena get-query-results --query-execution-id "$query" --output json | jq -c '.ResultSet.Rows | map([.Data[].VarCharValue])
            | .[0] as $names | .[1:][] | [$names, .] | transpose | map({(.[0]): .[1]}) | add'
    fi
    ;;
*) usage ;;
esac
