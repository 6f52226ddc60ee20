#!/usr/bin/env sh
# Installs what the tests talk to, where that can be done: servers and a browser on Debian as root, Grafana's types and grammars with npm.
# Elsewhere those tests are skipped.
set -eu

tests=$(cd "$(dirname "$0")/../tests" && pwd)

missing=""
command -v prometheus >/dev/null 2>&1 || missing="prometheus"
command -v prometheus-alertmanager >/dev/null 2>&1 || command -v alertmanager >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
command -v prometheus-node-exporter >/dev/null 2>&1 || missing="$missing prometheus-node-exporter"
command -v kubectl >/dev/null 2>&1 || missing="$missing kubernetes-client"
command -v jq >/dev/null 2>&1 || missing="$missing jq"
command -v shellcheck >/dev/null 2>&1 || missing="$missing shellcheck"
ls /usr/lib/*/rsyslog/omelasticsearch.so >/dev/null 2>&1 || missing="$missing rsyslog rsyslog-elasticsearch"
command -v sysdig >/dev/null 2>&1 || missing="$missing sysdig"
command -v victoria-metrics >/dev/null 2>&1 || missing="$missing victoria-metrics"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
command -v chromium >/dev/null 2>&1 || missing="$missing chromium"
command -v tsc >/dev/null 2>&1 || missing="$missing node-typescript"
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "== installing $missing (about 20 seconds)"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -qq >/dev/null
        # Several words are meant.
        # shellcheck disable=SC2086
        apt-get install -y -qq --no-install-recommends $missing >/dev/null
    else
        echo "== no way to install $missing here: their tests are skipped"
    fi
fi

if [ ! -d "$tests/stack/grafana/node_modules" ]; then
    if command -v npm >/dev/null 2>&1; then
        echo "== installing Grafana's types and grammars (about 10 seconds)"
        npm install --prefix "$tests/stack/grafana" --silent --no-audit --no-fund --no-package-lock 2>/dev/null ||
            echo "== npm could not: their tests are skipped"
    else
        echo "== no npm here: the tests of Grafana's types and grammars are skipped"
    fi
fi
