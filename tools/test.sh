#!/bin/sh
# Run the tests in both environments that make has made; arguments go to pytest. Both runs are done,
# and it fails if one of them does.
#
# Without arguments several workers share the tests of an environment, file by file: they wait more
# than they work. What is selected by arguments starts sooner without.
set -u
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}

# pytest ends by itself when interrupted, and what is left to run would begin.
trap 'exit 130' INT

[ "$#" -gt 0 ] || set -- --numprocesses "${WORKERS:-2}" --dist loadfile

"$venv/bin/python" -m pytest "$@"
first=$?
"$venv-sqlalchemy14/bin/python" -m pytest -p tests.suites --suite sqlalchemy14 \
    -o cache_dir=.pytest_cache/sqlalchemy14 "$@"
second=$?

# pytest says 5 when nothing was selected: no failure if something was in the other environment.
case $first in
0) [ "$second" -eq 5 ] || exit "$second" ;;
5) exit "$second" ;;
*) exit "$first" ;;
esac
