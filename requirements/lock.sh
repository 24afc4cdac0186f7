#!/usr/bin/env bash
# Rewrite the hashed locks from the .in files: `make lock` keeps pinned versions, `make lock UPGRADE=--upgrade` renews them.
# uv reads no pip settings, and its own are put aside, so that the locks name no local folder and no other index.
set -euo pipefail
cd "$(dirname "$0")"
for name in $(compgen -e); do case $name in UV_* | PIP_*) unset "$name" ;; esac; done
compile() {
    ../.venv/bin/uv --no-config pip compile --quiet --universal --python-version 3.11 --system-certs \
        --no-annotate --no-header "$@"
}
# torch is chosen in torch.txt: its build (CPU or CUDA) and the libraries which that build needs depend on the machine.
# torchvision is named by backpack, which curvlinops uses; nothing here imports it, and its build would have to match torch.
skip=()
for package in torch torchvision triton $(compile torch.txt | grep -oE '^(nvidia|cuda)-[a-z0-9-]+'); do
    skip+=(--no-emit-package "$package")
done
compile --generate-hashes "${skip[@]}" ${UPGRADE:-} run.in torch.txt -o run.txt
compile --generate-hashes "${skip[@]}" ${UPGRADE:-} --constraint run.txt run.in dev.in torch.txt -o dev.txt
# An addition to dev.txt: what is pinned there is held to its version and not named twice.
skip=()
for package in torch torchvision triton $(grep -oE '^[a-z0-9.-]+==' dev.txt); do
    skip+=(--no-emit-package "${package%==}")
done
compile --generate-hashes "${skip[@]}" ${UPGRADE:-} --constraint dev.txt slurm.in -o slurm.txt
# What `make zoo` installs is an environment of its own, with the torch that torchvision is built for.
compile --generate-hashes ${UPGRADE:-} zoo.in -o zoo.txt
