#!/usr/bin/env bash
# Back up an installation while it runs. Usage: deploy/backup.sh <home of a gateway> <folder to be made>
#
# SLUICE_DATABASE_URL: PostgreSQL; without it the SQLite file in the home. SLUICE_REDIS_URL: Redis, for the jobs that wait;
# without it that of `sluice up`, if there is one. Programs: tar; pg_dump or python3; redis-cli.
#
# The order makes it whole. Usage goes from the spool into the ledger, and only then from the disk: whatever had ended when
# the spool was copied is in that copy, or in the ledger that is copied after it, or in both, which counts once. The other way
# round, what is shipped in between would be in neither. Jobs' entries come before their bodies and results for the same reason.
set -euo pipefail
home=$1
target=$2
fail() {
  echo "error: $*" >&2
  exit 1
}
[ -d "$home" ] || fail "$home is not a folder: name the home of a gateway (SLUICE_HOME)."
[ ! -e "$target" ] || fail "$target is there already: a backup is never written over another."
[[ ${SLUICE_REDIS_URL:-} != *+sentinel://* ]] || fail "SLUICE_REDIS_URL names sentinels: give it the address of a replica or of the master here."
[[ ${SLUICE_REDIS_URL:-} != *+cluster://* ]] || fail "SLUICE_REDIS_URL names a cluster: leave it empty here, and save each of its masters with redis-cli --rdb first."
umask 077
mkdir -p "$target"

keep() { # folders of the home; one may change or vanish meanwhile (status 1), since what vanishes is in the ledger by then
  local status=0
  tar --create --gzip --file "$target/$1.tar.gz" --directory "$home" --warning=no-file-changed --warning=no-file-removed "$1" || status=$?
  [ "$status" -le 1 ] || fail "$home/$1 could not be read (tar: $status)."
}

if [ -n "${SLUICE_REDIS_URL:-}" ]; then
  redis-cli -u "$SLUICE_REDIS_URL" --no-auth-warning --rdb "$target/redis.rdb" >/dev/null
fi
[ ! -d "$home/redis" ] || keep redis # the embedded one of `sluice up`: its file is only ever appended to
[ ! -d "$home/objects" ] || keep objects
[ ! -d "$home/spool" ] || keep spool
if [[ ${SLUICE_DATABASE_URL:-} == postgresql* ]]; then
  pg_dump --format=custom --file "$target/ledger.dump" --dbname "$SLUICE_DATABASE_URL"
else
  file=${SLUICE_DATABASE_URL:-}
  file=${file#sqlite:///}
  python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=60).execute("VACUUM INTO ?", [sys.argv[2]])' \
    "${file:-$home/sluice.db}" "$target/sluice.db"
fi
(cd "$target" && sha256sum -- * >SHA256SUMS)
echo "$target"
