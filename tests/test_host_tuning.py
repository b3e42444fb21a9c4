"""How memory is kept and how threads wait, each in a process of its own."""

import os
import subprocess
import sys

import pytest

KEEPS = """
import resource, sys
from hat.process_settings import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else None
size = 64 * 2**20
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * size
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(told, min(faults() for _ in range(3)))
"""
WAITS = "import os\nfrom hat.cli import load_command\nload_command({!r})\nprint(os.environ.get('OMP_WAIT_POLICY'))"


def say(code, *arguments, **environment):
    """What a fresh process prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_WAIT", "GOMP", "MALLOC_"))}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, env={**clean, **environment}, check=True, capture_output=True, text=True, timeout=120
    ).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_keep_freed_memory_saves_page_faults():
    told, kept = say(KEEPS, "keep")
    _, returned = say(KEEPS, "return")
    assert told == "True" and int(returned) > 10_000 > 100 * int(kept)
    assert say(KEEPS, "keep", MALLOC_TOP_PAD_="65536")[0] == "False", "what the user has set stays"


@pytest.mark.parametrize(("command", "policy"), [("train", "passive"), ("eval", "passive"), ("info", "None")])
def test_wait_passively_before_torch_is_imported(command, policy):
    assert say(WAITS.format(command)) == [policy]
    assert say(WAITS.format(command), OMP_WAIT_POLICY="active") == ["active"]
    assert say(WAITS.format(command), GOMP_SPINCOUNT="7") == ["None"]
