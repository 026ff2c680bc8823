#!/bin/sh
# What some tests want from the system: a real PostgreSQL for those of the shared store, a Chromium for those of the
# pages. Installed from the distribution where we may; otherwise those tests are skipped, and say so.
set -eu

want() { # name, package, command that succeeds when it is there
    if sh -c "$3" >/dev/null 2>&1; then return 0; fi
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "services: no $1 here, and it cannot be installed without root and apt: its tests are skipped"
        return 0
    fi
    echo "services: installing $1"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "$2"; } >/dev/null 2>&1 ||
        echo "services: $1 could not be installed: its tests are skipped"
}

want PostgreSQL postgresql 'ls /usr/lib/postgresql/*/bin/initdb'
want Chromium chromium 'command -v chromium || command -v chromium-browser || command -v google-chrome'
