"""``hat demo`` as a user starts it: a process of its own, whose address is read from what it says."""

import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager


@contextmanager
def hat_demo(*arguments, **variables):
    """Start the command; gives its address once it is served. Afterwards it is stopped as by Ctrl+C, and must end in peace."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "hat", "demo", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    said = ""
    try:
        while "the demo is at" not in said:
            line = process.stderr.readline()
            assert line, f"hat demo ended: {said}"
            said += line
        yield re.search(r"http://[^\s/]+/", said).group()
    finally:
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Traceback" not in said, said
