#!/usr/bin/env bash
# All GPUs of one node: recovery batches are spread over them by pmap.
#   pip install '.[cuda12]'  # or '.[cuda13]'
#   launch/gpu_node.sh --config=configs/digits.py --workdir=runs/digits
#   launch/gpu_node.sh --config=configs/imagenet.py:folder=/data/imagenet --workdir=runs/imagenet
# CUDA_VISIBLE_DEVICES chooses GPUs as usual.
set -euo pipefail
cd "$(dirname "$0")/.."
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}"
exec "${PYTHON:-python3}" -m delt_jax.main "$@"
