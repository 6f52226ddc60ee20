#!/usr/bin/env sh
# Installs the servers that the tests talk to, where that can be done: Debian, as root. Elsewhere those tests are skipped.
set -eu

if command -v prometheus >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "== no prometheus here, and no way to install it: its tests are skipped"
    exit 0
fi
echo "== installing prometheus (about 20 seconds)"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >/dev/null
apt-get install -y -qq --no-install-recommends prometheus >/dev/null
