#!/bin/sh
# What the demo and the tests need besides Rust: system packages, and Python packages in a folder of their own.
#
#     scripts/install.sh system    make, g++, perl, curl and Python, by apt-get, where they are missing
#     scripts/install.sh demo      that, and what the demo needs of Python
#     scripts/install.sh test      that, and all of tests/python/requirements.txt
#
# Nothing is done twice: what is there stays, so a second run takes a moment. Python packages go to .venv, or to
# $STARMERE_VENV where that is set.
set -eu
cd "$(dirname "$0")/.."

requirements=tests/python/requirements.txt
venv=${STARMERE_VENV:-.venv}
what=${1:-}

say() { echo "install: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "\`$*\` needs root, and there is no sudo: run it as root, then again"
    fi
}

# Debian keeps venv and ensurepip in a package of their own.
python_is_whole() { python3 -c 'import venv, ensurepip' 2>/dev/null; }

system() {
    missing=
    command -v make >/dev/null || missing="$missing make"
    # The Kafka client and OpenSSL are built from source.
    command -v g++ >/dev/null || missing="$missing g++"
    perl -MFindBin -MIPC::Cmd -MTime::Piece -e 1 2>/dev/null || missing="$missing perl"
    command -v python3 >/dev/null || missing="$missing python3"
    python_is_whole || missing="$missing python3-venv"
    # Requests that the pages show are made with it.
    command -v curl >/dev/null || missing="$missing curl"
    if [ -n "$missing" ]; then
        command -v apt-get >/dev/null || fail "missing:$missing; there is no apt-get, so install them by hand"
        say "missing:$missing"
        as_root apt-get update -qq
        # shellcheck disable=SC2086  # a list of names
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
        python_is_whole || fail "python3 still has no venv: is another python3 first in PATH?"
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$(python3 --version) is too old: 3.11 or later is needed"
}

# `packages NAME ARGUMENTS…`: pip install, unless the same has been installed for NAME before.
packages() {
    name=$1
    shift
    wanted="$(cksum <"$requirements") $*"
    done_file=$venv/installed-$name
    if [ -f "$done_file" ] && [ "$(cat "$done_file")" = "$wanted" ]; then
        return
    fi
    # An environment whose Python has gone, or that was left half made, is made anew.
    "$venv/bin/python" -c 'import pip' 2>/dev/null || python3 -m venv --clear "$venv"
    say "Python packages for: $name"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "$wanted" >"$done_file"
}

case $what in
system) system ;;
demo)
    system
    # The same versions as for the tests. Constraints have no extras.
    constraints=$(mktemp)
    sed 's/\[[^]]*\]//' "$requirements" >"$constraints"
    PIP_CONSTRAINT=$constraints packages demo adbc-driver-flightsql adbc-driver-manager pyarrow
    rm -f "$constraints"
    ;;
test)
    system
    packages test --requirement "$requirements"
    ;;
*) fail "say what for: system, demo or test" ;;
esac
