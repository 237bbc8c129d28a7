"""`python -m benchmarks [NAME ...]`: runs the named benchmarks, or those of the running service.

`build` (minutes, gigabytes of disk) and `gpu` run by name only.

Each is a module of this package that runs by its own name (`python -m benchmarks.NAME`) and gets a
process of its own here, so that none inherits the threads and the memory of the one before. What
they find is under .state/benchmarks.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from rich.console import Console

from benchmarks.report import RESULTS, SUMMARY_NAME
from serving.boundary.child import ENVIRONMENT

NAMES = ("harmony", "boundary", "request", "embedded", "stall", "serving", "first_byte")
KNOWN = (*NAMES, "build", "gpu")


def main(arguments: list[str], run: Callable[[str], int]) -> int:
    """Returns 0 when every benchmark ended well, 1 when one did not, 2 for an unknown name."""
    console = Console()
    unknown = [name for name in arguments if name not in KNOWN]
    if unknown:
        console.print(f"no benchmark {unknown[0]!r}: there are {', '.join(KNOWN)}")
        return 2
    failed = []
    for name in arguments or NAMES:
        console.rule(name)
        if run(name):
            failed.append(name)
    console.print(f"results: {RESULTS / SUMMARY_NAME}", highlight=False)
    if failed:
        console.print(f"ended with an error or missed a goal: {', '.join(failed)}")
    return 1 if failed else 0


def run_module(name: str) -> int:
    """Runs one benchmark to its end and returns its exit status."""
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    environment = ENVIRONMENT | os.environ
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], run_module))
