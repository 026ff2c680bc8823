#!/bin/sh
# Tests of the shared store want a real PostgreSQL. Installed from the distribution where we may; otherwise those
# tests are skipped, and say so.
set -eu
if ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "services: no PostgreSQL here, and it cannot be installed without root and apt: its tests are skipped"
    exit 0
fi
echo "services: installing PostgreSQL"
export DEBIAN_FRONTEND=noninteractive
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; } >/dev/null 2>&1 ||
    echo "services: PostgreSQL could not be installed: its tests are skipped"
