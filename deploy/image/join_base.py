#!/usr/bin/env python
"""Joins BentoML's environment to the packages of the TensorRT-LLM release container.

BentoML puts an image's Python packages into a virtual environment of its own, which does not see
what the base image has installed: torch and TensorRT-LLM among it. The generated Dockerfile runs
this after it has installed deploy/image/trtllm.lock. It

1. lets the environment see the base's packages;
2. removes from it what TensorRT-LLM, or something that it needs, cannot live with, so that the
   base's own is used;
3. installs the compiler of grammars apart, because TensorRT-LLM needs another version of it;
4. ends the image's build when TensorRT-LLM or torch is not the base's, or a requirement of what
   stays is not met.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ENVIRONMENT = Path(sys.prefix)
GRAMMAR = ("apache-tvm-ffi==0.1.15.post2", "xgrammar==0.2.8")
"""As in requirements.lock and requirements-nodeps.lock; `serving.grammar.library` looks
for them in `grammar` of the environment."""

_OPEN = "include-system-site-packages = true"

OWNED = ("tensorrt-llm", "torch")
"""What has to come from the base."""


def main() -> int:
    """Returns 0 when the environment is whole; else says what is wrong."""
    show_base()
    while unfit := sorted(refused(seen())):
        say(f"left to the base image: {', '.join(unfit)}")
        uv("uninstall", *unfit)
    uv("install", "--no-deps", "--target", str(ENVIRONMENT / "grammar"), *GRAMMAR)
    problems = [*missing(seen()), *unmet(seen())]
    for problem in problems:
        say(f"error: {problem}")
    return 1 if problems else 0


def show_base() -> None:
    """Makes the base's packages visible in the environment, after its own."""
    path = ENVIRONMENT / "pyvenv.cfg"
    text = path.read_text(encoding="utf-8")
    if _OPEN not in text:
        kept = [line for line in text.splitlines() if not line.startswith("include-system-site")]
        path.write_text("\n".join([*kept, _OPEN, ""]), encoding="utf-8")


def seen() -> dict[str, Distribution]:
    """Returns what a new interpreter of the environment finds, by name; the first found counts."""
    program = "import json, sys; print(json.dumps(sys.path))"
    printed = subprocess.run(
        [sys.executable, "-I", "-c", program], check=True, capture_output=True, text=True
    ).stdout
    found: dict[str, Distribution] = {}
    for distribution in distributions(path=json.loads(printed)):
        found.setdefault(canonicalize_name(distribution.metadata["Name"]), distribution)
    return found


def is_base(distribution: Distribution) -> bool:
    """Tells whether a package comes from the base image."""
    place = Path(str(distribution.locate_file(""))).resolve()
    return not place.is_relative_to(ENVIRONMENT.resolve())


def needs(distribution: Distribution) -> Iterator[Requirement]:
    """Yields what a package requires here, without its extras."""
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def meets(found: Distribution | None, requirement: Requirement) -> bool:
    """Tells whether what was found is what is required. NVIDIA's builds are pre-releases."""
    return found is not None and requirement.specifier.contains(found.version, prereleases=True)


def refused(packages: dict[str, Distribution]) -> set[str]:
    """Returns the environment's packages that TensorRT-LLM, or what it needs, cannot live with."""
    names: set[str] = set()
    waiting, known = ["tensorrt-llm"], {"tensorrt-llm"}
    while waiting:
        distribution = packages.get(waiting.pop())
        for requirement in needs(distribution) if distribution else ():
            name = canonicalize_name(requirement.name)
            found = packages.get(name)
            if found and not is_base(found) and not meets(found, requirement):
                names.add(name)
            if name not in known:
                known.add(name)
                waiting.append(name)
    return names


def missing(packages: dict[str, Distribution]) -> Iterator[str]:
    """Yields what has to come from the base and does not."""
    for name in OWNED:
        found = packages.get(name)
        if found is None or not is_base(found):
            yield (
                f"{name} does not come from the base image; is that the TensorRT-LLM release "
                "container?"
            )


def unmet(packages: dict[str, Distribution]) -> Iterator[str]:
    """Yields what the environment's packages need and do not find. The base's own are its own."""
    for name, distribution in packages.items():
        for requirement in () if is_base(distribution) else needs(distribution):
            found = packages.get(canonicalize_name(requirement.name))
            if not meets(found, requirement):
                version = f"{found.version} is there" if found else "it is not there"
                yield f"{name} needs {requirement}; {version}"


def uv(command: str, *arguments: str) -> None:
    """Runs uv on the environment's packages."""
    program = shutil.which("uv")
    if program is None:
        sys.exit("error: uv is not in the image")
    subprocess.run([program, "pip", command, "--python", sys.executable, *arguments], check=True)


def say(line: str) -> None:
    """Writes a line to the log of the image's build."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
