#!/usr/bin/env bash
# Builds the pjsua2 wheel of pjproject 2.17 with the limits of config_site.h; README.md beside it says why and how.
#
#   deploy/pjsip/build.sh           build, or find in the cache; the last line of stdout is the wheel's path
#   deploy/pjsip/build.sh --where   print the folder that this wheel has in the cache, build nothing
#
# Environment: PYTHON (default python3), MICROTURN_CACHE (default <repository>/.cache), PJPROJECT_SOURCE (path or URL of
# a pjproject 2.17 tarball; default: Debian's), PJPROJECT_SHA256 (its checksum; default: the pinned one in SHA256SUMS).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
cache=${MICROTURN_CACHE:-$(cd "$here/../.." && pwd)/.cache}
source=${PJPROJECT_SOURCE:-}
packages=(build-essential swig libopus-dev libssl-dev libsrtp2-dev uuid-dev libsamplerate0-dev xz-utils ca-certificates)

say() { printf 'pjsip: %s\n' "$*" >&2; }
die() { say "$@"; exit 1; }
checksum() { sha256sum -- "$1" | cut -d' ' -f1; }
pinned() { # FILE NAME: its line in SHA256SUMS, else the first line, which is the default source
    awk -v name="$1" '$2 == name { print $1; found = 1; exit } NR == 1 { first = $1 } END { if (!found) print first }' \
        "$here/SHA256SUMS"
}
verify() { # FILE
    local value
    value=$(checksum "$1")
    [[ $value == "$expected" ]] && return
    say "refused: the checksum of $1 is wrong"
    say "  value:    $value"
    say "  expected: $expected"
    say "Fetch the file again. If it is another release that you trust, set PJPROJECT_SHA256 to its checksum for once,"
    die "or change the line in $here/SHA256SUMS for good."
}

command -v "$python" >/dev/null || die "no interpreter '$python'; set PYTHON"
[[ $python != */* ]] || python=$(realpath -s -- "$python") # the build changes folder; a venv's link must stay one
cache=$(realpath -ms -- "$cache")
name=${source##*/}
expected=${PJPROJECT_SHA256:-$(pinned "${name%%\?*}")}
if [[ -n $source && $source != *://* ]]; then
    [[ -f $source ]] || die "PJPROJECT_SOURCE=$source is no file"
    verify "$source"
fi

# --- cache: everything that can change the wheel is in the key ---
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
system=$(. /etc/os-release 2>/dev/null && printf '%s-%s' "${ID:-}" "${VERSION_ID:-}" || true)
key=$({
    printf '%s\n' "$expected" "$tag" "$(uname -m)" "$system"
    cat "$here/config_site.h" "$here/build.sh"
} | sha256sum | cut -c1-16)
store=$cache/pjsip/$key
if [[ ${1:-} == --where ]]; then
    echo "$store"
    exit
fi
found() { compgen -G "$store/pjsua2-*.whl" | head -n 1; }
if wheel=$(found) && [[ -n $wheel ]]; then
    say "in the cache"
    echo "$wheel"
    exit
fi

# --- what the build needs ---
missing=()
if command -v dpkg-query >/dev/null; then
    for package in "${packages[@]}"; do
        [[ $(dpkg-query -W -f='${Status}' "$package" 2>/dev/null || true) == *"ok installed" ]] || missing+=("$package")
    done
else
    say "no dpkg here: make sure yourself of the counterparts of ${packages[*]}"
fi
if ((${#missing[@]})); then
    [[ $(id -u) == 0 ]] || die "missing packages, install them as root: apt-get install ${missing[*]}"
    say "installing ${missing[*]}"
    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; } >&2
fi
include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[[ -f $include/Python.h ]] || die "no $include/Python.h: install the header files of $python (Debian: python3-dev)"

mkdir -p "$store"
log=$store/build.log
exec 9>"$store/lock"
flock 9 # a second build of the same wheel waits here and then finds it
if wheel=$(found) && [[ -n $wheel ]]; then
    echo "$wheel"
    exit
fi
: >"$log"
work=$(mktemp -d "${TMPDIR:-/tmp}/pjsip-build.XXXXXX")
chmod 755 "$work" # apt downloads as a user of its own
finish() {
    local status=$?
    if ((status == 0)) || [[ ! -d $work/src ]]; then
        rm -rf -- "$work"
    else
        tail -n 15 "$log" >&2
        say "failed; the log is $log, the work folder is kept: $work"
    fi
    exit "$status"
}
trap finish EXIT

# --- source ---
debian_source() { # FILE: Debian's asterisk carries pjproject as a component tarball; the mirror is this machine's own
    local sources=$work/apt/sources.list from=/etc/apt/sources.list.d/debian.sources entry uri target=$1
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    if [[ -f $from ]]; then # deb822: first URI of the first stanza that is not for security updates
        entry=$(sed -nE 's/^URIs:[[:space:]]*([^[:space:]]+).*/\1/p' "$from" | grep -v -- '-security' | head -n 1)
    else
        entry=$(sed -nE 's/^deb[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+).*/\2/p' /etc/apt/sources.list |
            grep -v -- '-security' | head -n 1)
    fi
    [[ -n $entry ]] || die "apt has no Debian mirror here: set PJPROJECT_SOURCE to a pjproject 2.17 tarball"
    echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $entry sid main" >"$sources"
    local options=(-o "Dir::Etc::sourcelist=$sources" -o Dir::Etc::sourceparts=- -o "Dir::State::Lists=$work/apt/lists"
        -o "Dir::Cache=$work/apt/cache" -o Acquire::Languages=none -o APT::Sandbox::User="$(id -un)")
    apt-get "${options[@]}" update
    uri=$(apt-get "${options[@]}" --print-uris source --download-only asterisk |
        sed -nE "s/^'([^']*orig-Xpjproject\.tar\.xz)'.*/\1/p" | head -n 1)
    [[ -n $uri ]] || die "Debian's asterisk has no pjproject component any more: set PJPROJECT_SOURCE"
    /usr/lib/apt/apt-helper "${options[@]}" download-file "$uri" "$target"
}
tarball=$work/pjproject.tar
case $source in
"") say "fetching Debian's source" && debian_source "$tarball" >>"$log" 2> >(tee -a "$log" >&2) ;;
*://*) say "fetching $source" && curl -fsSL -o "$tarball" "$source" ;;
*) cp -- "$source" "$tarball" ;;
esac
verify "$tarball"
mkdir "$work/src"
tar -xf "$tarball" -C "$work/src" --strip-components=1

# --- build: about 5 minutes on 2 cores ---
say "building, log in $log"
build() {
    cd "$work/src"
    cp "$here/config_site.h" pjlib/include/pj/config_site.h
    # Debian strips this unused sound driver; its object is still in the list.
    [[ -f pjmedia/src/pjmedia-audiodev/bdimad_dev.c ]] || sed -i 's/bdimad_dev.o//' pjmedia/build/Makefile
    # -DNDEBUG: a failed pj_assert is an error return, not SIGABRT.  Codecs that nobody needs are code that nobody attacks.
    ./configure --enable-epoll --disable-sound --disable-video --disable-libwebrtc --disable-libyuv --with-external-srtp \
        --disable-gsm-codec --disable-speex-codec --disable-speex-aec --disable-ilbc-codec --disable-g7221-codec \
        --enable-libsamplerate CFLAGS="-O2 -fPIC -DNDEBUG"
    make dep
    make -j"$(nproc)" lib
    "$python" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check setuptools wheel
    make -C pjsip-apps/src/swig/python PYTHON_EXE="$work/venv/bin/python" wheel
    wheel=$(find "$work/src/pjsip-apps" -name 'pjsua2-*.whl' | head -n 1)
    # What configure drops without a word if a header file is away must not pass for built.
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-index "$wheel"
    "$work/venv/bin/python" - <<'PY'
import os

import pjsua2 as pj

endpoint = pj.Endpoint()
endpoint.libCreate()
config = pj.EpConfig()
config.logConfig.level = config.logConfig.consoleLevel = 0
endpoint.libInit(config)
codecs = {codec.codecId for codec in endpoint.codecEnum2()}
transport = pj.TransportConfig()
transport.boundAddress = "127.0.0.1"
endpoint.transportCreate(pj.PJSIP_TRANSPORT_TLS, transport)
print("version", endpoint.libVersion().full, "codecs", sorted(codecs), flush=True)
os._exit(0 if any(codec.startswith("opus/") for codec in codecs) else 1)
PY
    cp "$wheel" "$store/new"
    mv "$store/new" "$store/${wheel##*/}" # at once: a reader never sees half a wheel
}
# A child shell, so that -e holds inside of it.
export here store work python
export -f build
bash -euo pipefail -c build >>"$log" 2>&1
say "built in $SECONDS s"
found
