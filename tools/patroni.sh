#!/bin/sh
# Make the environment with Patroni and etcd, or do nothing if it is already there.
#
#   tools/patroni.sh PLACE PYTHON    makes it at PLACE with the interpreter PYTHON
#
# If this machine has an etcd, that one is used. Otherwise Debian's or Ubuntu's package is unpacked,
# not installed, so this needs no root and starts no service.
set -eu
cd "$(dirname "$0")/.."
place=$1
python=$2
mark=$place/.hasql-patroni

fail() {
    printf 'hasql: %s\n' "$*" >&2
    exit 1
}

if cmp -s tools/patroni.txt "$mark"; then exit 0; fi
if [ -d "$place" ] && [ ! -e "$place/pyvenv.cfg" ]; then
    fail "$place is there and is no virtual environment: remove it, or name another place"
fi
printf 'hasql: making %s with Patroni and etcd\n' "$place" >&2
"$python" -m venv --clear "$place"
"$place/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --requirement tools/patroni.txt || fail "installing failed: see above"

if ! command -v etcd >/dev/null; then
    if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
        fail "there is no etcd, nor apt-get to fetch it: install etcd 3.4 or newer"
    fi
    package=$place/package
    mkdir -p "$package"
    (cd "$package" && apt-get --quiet=2 download etcd-server 2>&1) >"$package/said" ||
        fail "no package etcd-server ($(tail -n 1 "$package/said")): try apt-get update"
    dpkg-deb --extract "$package"/etcd-server_*.deb "$package"
    mv "$package/usr/bin/etcd" "$place/bin/etcd"
    rm -rf "$package"
fi
cp tools/patroni.txt "$mark"
