#!/usr/bin/env bash
# What an image installs, as a step of its build: a virtual environment with what is pinned, and this tree.
#
#   deploy/docker/install.sh PROFILE FOLDER [WHEEL ...]
#
# PROFILE is a file of requirements/ without its ending, FOLDER becomes the environment, each WHEEL goes into it. It
# ends with the program having been started once. DRY_RUN=1 prints the commands and runs none. PYTHON (default
# python3) is the interpreter, PIP_INDEX_URL and PIP_EXTRA_INDEX_URL are pip's own.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tree=$(cd "$here/../.." && pwd)
profile=${1:?usage: install.sh PROFILE FOLDER [WHEEL ...]}
folder=${2:?usage: install.sh PROFILE FOLDER [WHEEL ...]}
shift 2
pins=$here/requirements/$profile.txt
if [[ ! -f $pins ]]; then
    known=$(cd "$here/requirements" && printf '%s ' *.txt)
    echo "install.sh: PROFILE = '$profile': expected one of ${known//.txt/}" >&2
    exit 2
fi

run() {
    if [[ -n ${DRY_RUN:-} ]]; then
        printf '%q ' "$@" && echo
    else
        "$@"
    fi
}

pip=(pip install --no-cache-dir --disable-pip-version-check --no-input)
no_deps=(--no-deps)
started=(-P -m gateway --help) # -P: what is installed, not what lies here
case $profile in
model-cuda) no_deps=() ;& # SGLang's own pins are followed
model-*) started=(-P -m model_server --help) ;;
esac

run "${PYTHON:-python3}" -m venv "$folder"
run "$folder/bin/python" -m "${pip[@]}" "${no_deps[@]}" --requirement "$pins"
for wheel in "$@"; do
    run "$folder/bin/python" -m "${pip[@]}" --no-deps "$wheel"
done
run "$folder/bin/python" -m "${pip[@]}" --no-deps "$tree"
# nothing is installed later: what installs is no part of an image
run "$folder/bin/python" -m pip uninstall --quiet --yes pip
run "$folder/bin/python" "${started[@]}"
