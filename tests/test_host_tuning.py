"""How a long computation keeps memory and how its threads wait."""

import os
import subprocess
import sys

import pytest

from hat.cli import load_command

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


def say(*arguments, **environment):
    """What a fresh process prints."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", KEEPS, *arguments]
    return subprocess.run(command, env={**clean, **environment}, check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_keep_freed_memory_saves_page_faults():
    told, kept = say("keep")
    _, returned = say("return")
    assert told == "True" and int(returned) > 10_000 > 100 * int(kept)
    assert say("keep", MALLOC_TOP_PAD_="65536")[0] == "False", "what the user has set stays"


@pytest.mark.parametrize(("command", "policy"), [("train", "passive"), ("eval", "passive"), ("info", None)])
@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_wait_passively_unless_the_user_has_chosen_and_before_the_command_is_imported(command, policy, chosen, monkeypatch):
    environment = dict(chosen)
    seen = []
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr("hat.cli.keep_freed_memory", lambda: None)
    monkeypatch.setattr("pkgutil.resolve_name", lambda name: seen.append(dict(environment)) or (lambda: None))
    load_command(command)
    assert seen == [chosen or ({"OMP_WAIT_POLICY": policy} if policy else {})]
