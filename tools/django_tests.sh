#!/bin/sh
# Fetch the tests that belong to the Django of an environment: they are in its source distribution
# alone. They go to the directory django-tests of the environment.
#
#   tools/django_tests.sh .venv
set -eu

venv=$1
version=$("$venv/bin/python" -c 'import django; print(django.__version__)')
place=$venv/django-tests
[ "$(cat "$place/version" 2>/dev/null)" != "$version" ] || exit 0
rm -rf "$place"
mkdir -p "$place/download"
"$venv/bin/python" -m pip download --quiet --quiet --disable-pip-version-check --no-deps \
    --no-binary Django --dest "$place/download" "Django==$version"
tar -xzf "$place"/download/*.tar.gz -C "$place" --strip-components 1 --wildcards '*/tests'
rm -rf "$place/download"
printf '%s\n' "$version" >"$place/version"
