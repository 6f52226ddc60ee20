#!/usr/bin/env sh
# Checks that the newest backup in a folder is recent, of a sensible size, undamaged, and can be unpacked. Exit code 1 when not.
#
#   scripts/verify-backup.sh [--dry-run] DIR      backups are *.tar.gz, beside each its *.tar.gz.sha256
#   MAX_AGE_HOURS=26  MIN_BYTES=1024  RESTORE=yes (unpack into a temporary folder; anything else: only list)
set -eu

max_age_hours=${MAX_AGE_HOURS:-26}
min_bytes=${MIN_BYTES:-1024}
restore=${RESTORE:-yes}
dry_run=no
if [ "${1:-}" = --dry-run ]; then
    dry_run=yes
    shift
fi
if [ $# -ne 1 ]; then
    sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
dir=$1

if [ "$dry_run" = yes ]; then
    echo "would check the newest *.tar.gz in $dir: younger than $max_age_hours h, at least $min_bytes bytes, its sha256, and unpack it: $restore"
    exit 0
fi

fail() {
    echo "LOOK   backup: $1"
    exit 1
}

newest=$(find "$dir" -maxdepth 1 -name '*.tar.gz' -printf '%T@ %p\n' 2>/dev/null | sort -rn | head -n 1 | cut -d' ' -f2-)
[ -n "$newest" ] || fail "there is none in $dir"
[ -n "$(find "$newest" -mmin "-$((max_age_hours * 60))")" ] || fail "$newest is older than $max_age_hours hours"
bytes=$(wc -c <"$newest")
[ "$bytes" -ge "$min_bytes" ] || fail "$newest has only $bytes bytes"
[ -f "$newest.sha256" ] || fail "$newest has no checksum beside it"
expected=$(cut -d' ' -f1 <"$newest.sha256")
[ "$(sha256sum "$newest" | cut -d' ' -f1)" = "$expected" ] || fail "$newest is damaged: its checksum differs"
if [ "$restore" = yes ]; then
    into=$(mktemp -d)
    trap 'rm -rf "$into"' EXIT
    tar -xzf "$newest" -C "$into" 2>/dev/null || fail "$newest cannot be unpacked"
    files=$(find "$into" -type f | wc -l)
else
    files=$(tar -tzf "$newest" 2>/dev/null | wc -l)
fi
[ "$files" -gt 0 ] || fail "$newest is empty"
echo "ok     backup $newest: $bytes bytes, $files files"
