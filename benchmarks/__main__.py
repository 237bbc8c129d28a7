"""`python -m benchmarks [NAME ...]`: runs the named benchmarks, or all, and shows the summary.

Each is a module of this package with `main() -> None`. What they find is under .state/benchmarks.
"""

from __future__ import annotations

import sys
from importlib import import_module

from rich.console import Console

from benchmarks.report import RESULTS, SUMMARY_NAME

NAMES = ("harmony", "embedded", "stall", "serving")
"""What a machine without a GPU can run; `gpu` is run by its name."""
KNOWN = (*NAMES, "gpu")


def main(arguments: list[str]) -> int:
    """Returns 0, or 2 for a name that is not known."""
    console = Console()
    unknown = [name for name in arguments if name not in KNOWN]
    if unknown:
        console.print(f"no benchmark {unknown[0]!r}: there are {', '.join(KNOWN)}")
        return 2
    for name in arguments or NAMES:
        console.rule(name)
        import_module(f"benchmarks.{name}").main()
    console.print(f"results: {RESULTS / SUMMARY_NAME}", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
