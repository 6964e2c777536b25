#!/usr/bin/env bash
# One TPU VM, run on the VM itself; all its local cores take recovery batches by pmap.
#   pip install '.[tpu]'
#   launch/tpu_vm.sh --config=configs/digits.py --workdir=runs/digits
set -euo pipefail
cd "$(dirname "$0")/.."
export JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}"
exec "${PYTHON:-python3}" -m delt_jax.main "$@"
