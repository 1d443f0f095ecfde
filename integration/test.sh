#!/bin/bash
# Runs all tests with the race detector and prints their events as JSON, for
# gotestsum: first the packages' own, then those of integration/, whose worlds
# mostly wait for guests. Two packages at a time.
#
#   test.sh RUN      RUN is the program of ./lab/run
set -uo pipefail
cd "$(dirname "$0")/.." || exit

run=$1
module=$(go list -m)
mapfile -t units < <(go list ./... | grep -v "^$module/integration")
mapfile -t integration < <(go list ./integration/...)
# Where go list fails there is nothing to run, which must not look like success.
if [ "${#units[@]}" = 0 ] || [ "${#integration[@]}" = 0 ]; then
	exit 1
fi

status=0
go test -json -race -count=1 -p 2 -timeout 10m -exec "$run" "${units[@]}" || status=1
go test -json -race -count=1 -p 2 -timeout 40m -exec "$run" "${integration[@]}" || status=1
exit "$status"
