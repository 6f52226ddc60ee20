#!/usr/bin/env sh
# Installs the servers that the tests talk to, where that can be done: Debian, as root. Elsewhere those tests are skipped.
set -eu

missing=""
command -v prometheus >/dev/null 2>&1 || missing="prometheus"
command -v prometheus-alertmanager >/dev/null 2>&1 || command -v alertmanager >/dev/null 2>&1 || missing="$missing prometheus-alertmanager"
ls /usr/lib/*/rsyslog/omelasticsearch.so >/dev/null 2>&1 || missing="$missing rsyslog rsyslog-elasticsearch"
command -v redis-server >/dev/null 2>&1 || missing="$missing redis-server"
ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
if [ -z "$missing" ]; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "== no way to install $missing here: their tests are skipped"
    exit 0
fi
echo "== installing $missing (about 20 seconds)"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
# shellcheck disable=SC2086 - several words are meant
apt-get install -y -qq --no-install-recommends $missing >/dev/null
