#!/bin/bash
# Build the image where there is no Docker engine, as root on Debian: build.sh TAG FOLDER.
# FOLDER keeps the wheels and podman the base, so that a second build needs no network; LAYERS=--layers
# also keeps the layers that did not change.
# Needs: apt install buildah podman runc debootstrap. Takes some 15 minutes on two cores, and 15 GB.
set -euo pipefail
tag=$1
mkdir -p "$2"
folder=$(cd "$2" && pwd)
python=${PYTHON:-python3.11}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if ! podman image exists "$tag-base"; then
    rm -rf "$folder/base"
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        bookworm "$folder/base"
    rm -rf "$folder/base"/var/cache/apt/archives/*.deb "$folder/base"/var/lib/apt/lists/*
    printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$folder/base/etc/pip.conf"
    tar -C "$folder/base" -c . | podman import - "$tag-base"
    rm -rf "$folder/base"
fi

if [ ! -e "$folder/wheels/complete" ]; then
    "$python" -m pip wheel --quiet --wheel-dir "$folder/wheels" --no-deps setuptools wheel
    "$python" -m pip wheel --quiet --wheel-dir "$folder/wheels" \
        --constraint constraints.txt torch '.[hdbet1]'
    rm -f "$folder"/wheels/bids_stroke-*.whl
    touch "$folder/wheels/complete"
fi

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' bids_stroke/__init__.py)
# shellcheck disable=SC2086 # empty, or one word
buildah bud --isolation chroot ${LAYERS:-} --volume "$folder/wheels:/wheels:ro" \
    --build-arg BASE="$tag-base" --build-arg VERSION="$version" --tag "$tag" .
