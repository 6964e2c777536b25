"""What is printed can be lost, but never ends a run."""

import io
import subprocess
import sys
from pathlib import Path

import pytest

from delt_jax.core import output

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys
from delt_jax.core import output
from delt_jax.core.progress import say
with output.unfailing():
    for i in range(20000):
        say("93.1 \\u00b1 0.4 \\u2603 \\udcff")
    print("to the end", file=sys.stderr)
"""


def run(script, **options):
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True, **options
    )


def test_an_ascii_terminal_gets_plain_words():
    done = run(SCRIPT, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "93.1 +- 0.4 \\u2603 \\udcff"


def test_a_full_disk_and_a_closed_stdout_lose_the_text_only():
    with open("/dev/full", "w") as full:
        done = run(SCRIPT, stdout=full)
    assert done.returncode == 0
    assert "stdout is lost (No space left on device); the work goes on." in done.stderr
    assert "to the end" in done.stderr
    assert "Exception" not in done.stderr
    closed = subprocess.run(
        f"{sys.executable} -c '{SCRIPT}' >&-", shell=True, cwd=ROOT, stderr=subprocess.PIPE
    )
    assert closed.returncode == 0
    assert closed.stderr == b"to the end\n"


def test_a_reader_that_goes_away_does_not_end_the_writer():
    done = subprocess.run(
        f"{{ {sys.executable} -c '{SCRIPT}'; echo status $? >&2; }} | head -1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("93.1")
    assert done.stderr == "to the end\nstatus 0\n"


def test_a_stream_without_a_file_is_wrapped_too():
    stream = output.UnfailingStream(io.StringIO(), "stdout")
    assert stream.write("x") == 1
    stream.close()
    assert stream.write("y") == 1
    stream.flush()


def test_the_streams_of_before_come_back():
    def work():
        with output.unfailing():
            seen.append(sys.stdout)
            raise ValueError("x")

    before, seen = (sys.stdout, sys.stderr), []
    with pytest.raises(ValueError, match="x"):
        work()
    assert seen[0] is not before[0]
    assert (sys.stdout, sys.stderr) == before
