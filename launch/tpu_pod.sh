#!/usr/bin/env bash
# All workers of a TPU slice: run here, where gcloud is; each worker starts the same command.
#   launch/tpu_pod.sh NAME ZONE --config=configs/digits.py --workdir=/shared/runs/digits
#   launch/tpu_pod.sh NAME ZONE --config=configs/imagenet.py:folder=/shared/imagenet \
#     --workdir=/shared/runs/imagenet
# Every worker needs this folder at the same path ($REMOTE, by default ~/delt_jax) with
# `pip install '.[tpu]'` done, and a file system that all share for --workdir and the data.
# One worker (a TPU VM) is a slice, too. After a preemption the same command goes on.
set -euo pipefail
if (($# < 3)); then
  echo "usage: $0 NAME ZONE FLAGS..." >&2
  exit 2
fi
name=$1 zone=$2
shift 2
flags=$(printf ' %q' "$@")
# The remote shell expands ~ and the worker's own PYTHON.
remote=${REMOTE:-\~/delt_jax}
status=0
gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all \
  --command="cd $remote && exec \${PYTHON:-python3} -m delt_jax.main --distributed=auto$flags" ||
  status=$?
if ((status)); then
  echo "$0: a worker has ended with an error, was preempted or has died, so the others have ended," \
    "too (or gcloud could not reach them; status $status). Lines above that begin with delt_jax: say" \
    "why. The same command goes on where it was, on a slice of any size." >&2
fi
exit "$status"
