"""``jopd serve`` in a process of its own."""

import contextlib
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def serving(model, *words: str, port: int = 0, stderr=None):
    """Yields its address and the process, kills it at the end."""
    command = [sys.executable, "-m", "jopd", "serve", f"--model={model}"]
    process = subprocess.Popen(
        [*command, f"--port={port}", *words],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    )
    try:
        said = process.stdout.readline()
        found = re.search(r"http://\S+", said)
        assert found, f"the server did not start: {said!r}"
        yield found[0], process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
