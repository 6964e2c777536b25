"""The launch scripts: shellcheck, the manifest's fields, and the commands they end in."""

import json
import os
import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from delt_jax.config import cli

LAUNCH = Path(__file__).parents[2] / "launch"
OF_CI = sorted((LAUNCH.parent / ".ci").iterdir())
SCRIPTS = [*sorted(LAUNCH.glob("*.sh")), *sorted(LAUNCH.glob("*.sbatch")), *OF_CI]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_shellcheck(script):
    assert os.access(script, os.X_OK)
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    result = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def fake(folder, name, body):
    """A command that stands in for the real one."""
    (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
    (folder / name).chmod(0o755)


def launched(script, *arguments, **environment):
    return subprocess.run(
        [LAUNCH / script, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


FLAGS = ("--config=configs/digits.py", "--workdir=/shared/a run")


def test_gpu_node(tmp_path):
    fake(tmp_path, "python", 'printf "%s\\n" "$@"')
    result = launched("gpu_node.sh", *FLAGS, PYTHON=str(tmp_path / "python"))
    assert result.stdout.splitlines() == ["-m", "delt_jax.main", *FLAGS]


def test_tpu_pod_quotes_what_the_workers_run(tmp_path):
    fake(tmp_path, "gcloud", 'printf "%s\\n" "$@"')
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = launched("tpu_pod.sh", "slice", "us-central2-b", *FLAGS, PATH=path)
    lines = result.stdout.splitlines()
    assert lines[:-1] == [
        *("compute", "tpus", "tpu-vm", "ssh", "slice", "--zone=us-central2-b", "--worker=all")
    ]
    assert lines[-1].startswith("--command=cd ~/delt_jax && exec")
    assert lines[-1].endswith(
        "delt_jax.main --distributed=auto --config=configs/digits.py --workdir=/shared/a\\ run"
    )
    assert result.stderr == ""
    assert launched("tpu_pod.sh", "slice").returncode == 2
    fake(tmp_path, "gcloud", "exit 7")
    result = launched("tpu_pod.sh", "slice", "us-central2-b", *FLAGS, PATH=path)
    assert result.returncode == 7
    assert "The same command goes on where it was" in result.stderr


@pytest.mark.parametrize(
    ("status", "restarts", "says"),
    [
        (0, "0", ""),
        (1, "0", "Mend that and submit the same command"),
        (143, "30", "all have saved their work"),
        (134, "0", "goes on from the last saves"),
        (137, "20", "at each of 20 restarts"),
    ],
)
def test_slurm(tmp_path, status, restarts, says):
    """Two tasks, one after the other; a signal or a dead process puts the job into the queue."""
    fake(tmp_path, "scontrol", 'echo "$@" >>"$LOG"; [[ $1 != show ]] || printf "node7\\nnode8\\n"')
    fake(tmp_path, "srun", 'shift; for SLURM_PROCID in 0 1; do export SLURM_PROCID; "$@"; done')
    fake(tmp_path, "python", f'printf "%s\\n" "$@"; exit {status}')
    result = launched(
        "slurm.sbatch",
        *FLAGS,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        PYTHON=str(tmp_path / "python"),
        LOG=str(tmp_path / "log"),
        SLURM_SUBMIT_DIR=str(LAUNCH.parent),
        SLURM_JOB_NODELIST="node[7-8]",
        SLURM_JOB_ID="41234",
        SLURM_NTASKS="2",
        SLURM_RESTART_COUNT=restarts,
    )
    job = ["--coordinator_address=node7:21234", "--num_processes=2"]
    expected = [["-m", "delt_jax.main", *job, f"--process_id={i}", *FLAGS] for i in range(2)]
    assert result.stdout.splitlines() == expected[0] + expected[1]
    assert result.returncode == status
    assert says in result.stderr
    assert bool(says) == bool(result.stderr)
    again = status in (134, 143)
    assert ("requeue 41234" in (tmp_path / "log").read_text()) == again


def test_jobset():
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = manifest["spec"]["replicatedJobs"]
    job = workers["template"]["spec"]
    assert (workers["replicas"], job["completionMode"]) == (1, "Indexed")
    pod = job["template"]["spec"]
    assert pod["securityContext"] == {"fsGroup": 1000}  # launch/Dockerfile's user
    assert pod["restartPolicy"] == "Never"  # as a policy of failures needs it
    (container,) = pod["containers"]
    (policy,) = job["podFailurePolicy"]["rules"]
    assert policy["onExitCodes"]["containerName"] == container["name"]
    settings = {e["name"]: e["value"] for e in container["env"]}
    assert job["parallelism"] == job["completions"] == int(settings["PROCESSES"])
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    shell, flag, command = container["command"]
    assert (shell, flag) == ("bash", "-c")
    command = command.replace('"$PROCESSES"', "4").replace('"$JOB_COMPLETION_INDEX"', "3")
    # <jobset>-<replicated job>-<replica>-<pod>.<jobset>
    host = f"{manifest['metadata']['name']}-{workers['name']}-0-0.{manifest['metadata']['name']}"
    words = command.split()
    assert words[:4] == ["exec", "python3", "-m", "delt_jax.main"]
    parsed = cli.parse(["main", *words[4:]])
    assert parsed.job == cli.ProcessFlags(False, f"{host}:12355", 4, 3)


ROOT = LAUNCH.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_image_is_built_of_what_is_there_and_runs_the_command_as_a_plain_user():
    text = (LAUNCH / "Dockerfile").read_text()
    steps = [
        line.split(maxsplit=1)
        for line in text.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    given = dict(steps)  # of several COPY the last
    assert given["FROM"] == "python:3.12-slim"
    extra = given["ARG"].removeprefix("EXTRA=")
    assert {extra, *re.findall(r"EXTRA=(\w+)", text)} <= set(PROJECT["optional-dependencies"])
    assert 'pip install --no-cache-dir ".[${EXTRA}]"' in given["RUN"]
    assert json.loads(given["ENTRYPOINT"]) == ["python3", "-m", "delt_jax.main"]
    assert f"useradd --uid 1000 --create-home {given['USER']}" in given["RUN"]
    copied = [name for step, names in steps if step == "COPY" for name in names.split()[:-1]]
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} < set(copied)
    assert all((ROOT / name).exists() for name in copied)
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)


@pytest.mark.parametrize("file", sorted(LAUNCH.iterdir()), ids=lambda p: p.name)
def test_the_examples_name_configs_and_extras_that_are_there(file):
    text = file.read_text()
    configs = set(re.findall(r"configs/\w+\.py", text))
    assert all((ROOT / config).exists() for config in configs)
    assert file.suffix == ".dockerignore" or {"configs/digits.py", "configs/imagenet.py"} <= configs
    assert set(re.findall(r"'\.\[(\w+)\]'", text)) <= set(PROJECT["optional-dependencies"])
