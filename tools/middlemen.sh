#!/bin/sh
# Install the programs that tests need on this machine, as root, from Debian's packages: PgBouncer
# and HAProxy, which stand between application and servers; Redis, which keeps rates for several
# processes; and a PostgreSQL with TLS and PostGIS, which the PostgreSQL of the wheel lacks.
# Programs that are already there are left alone.
set -eu

missing=
for program in haproxy pgbouncer redis-server; do
    PATH="$PATH:/usr/local/sbin:/usr/sbin" command -v "$program" >/dev/null ||
        missing="$missing $program"
done
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"
ls /usr/share/postgresql/*/extension/postgis.control >/dev/null 2>&1 ||
    missing="$missing postgresql-postgis"
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "this machine has none of:$missing; their tests need them: apt-get install$missing" >&2
    exit 1
fi

# The packages would start services. These are not wanted: tests start their own programs.
# https://manpages.debian.org/invoke-rc.d
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update --quiet --quiet
# shellcheck disable=SC2086 # names of packages, one word each
apt-get install --quiet --quiet --yes --no-install-recommends $missing
