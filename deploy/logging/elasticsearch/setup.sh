#!/usr/bin/env sh
# Puts the policy and the template into Elasticsearch, before the first line arrives.
set -eu

url=${ELASTICSEARCH_URL:-http://elasticsearch:9200}
here=$(cd "$(dirname "$0")" && pwd)

put() {
    curl --fail --silent --show-error -X PUT "$url/$1" -H "Content-Type: application/json" --data-binary "@$here/$2"
    echo
}

put _ilm/policy/ai-textbook-30d ilm-policy.json
put _index_template/ai-textbook index-template.json
