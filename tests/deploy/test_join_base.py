"""deploy/image/join_base.py, run as the image's build runs it, over a base of stand-in packages.

The base is a real interpreter whose site-packages are the test's; the environment on it, and uv,
are real too.
"""

from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import packaging
import pytest

from tests.commands import REPOSITORY

SCRIPT = REPOSITORY / "deploy" / "image" / "join_base.py"
UV = Path(sys.executable).with_name("uv")
LIBRARY = f"python{sys.version_info.major}.{sys.version_info.minor}"


def wheel(room: Path, name: str, version: str, requires: Sequence[str] = ()) -> Path:
    """Writes a wheel of one module, which knows its version, and returns its path."""
    module, information = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {text}" for text in requires]
    files = {
        f"{module}/__init__.py": f"VERSION = {version!r}\n",
        f"{information}/METADATA": "\n".join(metadata) + "\n",
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{path},sha256={digest.decode()},{len(text)}\n")
    record.append(f"{information}/RECORD,,\n")
    made = room / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for member, text in files.items():
            archive.writestr(member, text)
        archive.writestr(f"{information}/RECORD", "".join(record))
    return made


class Image:
    """What the generated Dockerfile has made before it runs the script."""

    def __init__(self, room: Path) -> None:
        self.wheels = room / "wheels"
        self.wheels.mkdir()
        self.base = self._interpreter(room / "base")
        site = "import site; print(site.getsitepackages()[0])"
        self.base_packages = Path(self._run([str(self.base), "-I", "-c", site]).stdout.strip())
        assert room in self.base_packages.parents
        self.environment = room / "environment"
        self._run([str(UV), "venv", "-q", "--python", str(self.base), str(self.environment)])
        self.python = self.environment / "bin" / "python"
        for package in (("apache-tvm-ffi", "0.1.15.post2"), ("xgrammar", "0.2.8", ["torch"])):
            wheel(self.wheels, *package)
        shutil.copytree(
            Path(packaging.__path__[0]),
            self.environment / "lib" / LIBRARY / "site-packages" / "packaging",
        )

    @staticmethod
    def _interpreter(prefix: Path) -> Path:
        """Returns an interpreter with this one's standard library and no packages."""
        library = prefix / "lib" / LIBRARY
        library.mkdir(parents=True)
        (prefix / "bin").mkdir()
        (library / "site-packages").mkdir()
        for entry in Path(os.__file__).parent.iterdir():
            if entry.name not in ("site-packages", "dist-packages"):
                (library / entry.name).symlink_to(entry)
        python = prefix / "bin" / LIBRARY
        shutil.copy(Path(sys.executable).resolve(), python)
        return python

    def in_base(self, name: str, version: str, requires: Sequence[str] = ()) -> None:
        """Installs a package as the container's maker has."""
        self._install(wheel(self.wheels, name, version, requires), self.base_packages)

    def in_environment(self, name: str, version: str, requires: Sequence[str] = ()) -> None:
        """Installs a package as BentoML does."""
        target = self.environment / "lib" / LIBRARY / "site-packages"
        self._install(wheel(self.wheels, name, version, requires), target)

    def version(self, module: str) -> str:
        """Returns the version of a module that a program in the image gets."""
        program = f"import {module}; print({module}.VERSION)"
        return self._run([str(self.python), "-I", "-c", program]).stdout.strip()

    def join(self) -> subprocess.CompletedProcess[str]:
        """Runs the script as the image's build does, with the wheels for its index."""
        environment = {
            "PATH": f"{self.environment / 'bin'}:{UV.parent}:/usr/bin:/bin",
            "HOME": str(self.wheels.parent),
            "UV_OFFLINE": "1",
            "UV_NO_INDEX": "1",
            "UV_FIND_LINKS": str(self.wheels),
            "UV_CACHE_DIR": str(self.wheels.parent / "cache"),
        }
        return subprocess.run(
            [str(SCRIPT)], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def _install(self, path: Path, target: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(target)

    @staticmethod
    def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An image whose base has TensorRT-LLM and torch."""
    made = Image(tmp_path)
    made.in_base("torch", "2.14.0a0+b4e4ee8", ["mathematics>=1"])
    made.in_base("mathematics", "1.5")
    made.in_base(
        "tensorrt-llm", "1.4.0rc4", ["torch>=2.14.0a0", "arrays<2.4", 'other==1; extra == "devel"']
    )
    made.in_base("arrays", "2.3.5")
    return made


def test_the_packages_of_the_base_are_seen(image: Image) -> None:
    image.in_environment("web", "3.0", ["arrays>=2"])
    result = image.join()
    assert result.returncode == 0, result.stdout + result.stderr
    assert image.version("tensorrt_llm") == "1.4.0rc4"
    assert image.version("torch") == "2.14.0a0+b4e4ee8"
    assert image.version("web") == "3.0"


def test_a_newer_package_that_tensorrt_llm_takes_stays(image: Image) -> None:
    image.in_environment("mathematics", "1.6")
    assert image.join().returncode == 0
    assert image.version("mathematics") == "1.6"


def test_one_that_it_does_not_take_is_left_to_the_base(image: Image) -> None:
    image.in_environment("arrays", "2.4.6")
    image.in_environment("web", "3.0", ["arrays>=2"])
    result = image.join()
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left to the base image: arrays" in result.stdout
    assert image.version("arrays") == "2.3.5"


def test_what_the_base_needs_of_its_own_accord_does_not_count(image: Image) -> None:
    image.in_base("notebook", "7.0", ["web<3"])
    image.in_environment("web", "3.0")
    assert image.join().returncode == 0
    assert image.version("web") == "3.0"


def test_a_package_that_cannot_live_with_the_bases_ends_the_build(image: Image) -> None:
    image.in_environment("arrays", "2.4.6")
    image.in_environment("web", "3.0", ["arrays>=2.4"])
    result = image.join()
    assert result.returncode == 1
    assert "error: web needs arrays>=2.4; 2.3.5 is there" in result.stdout


def test_another_base_image_ends_the_build(image: Image) -> None:
    shutil.rmtree(image.base_packages / "tensorrt_llm-1.4.0rc4.dist-info")
    result = image.join()
    assert result.returncode == 1
    assert "error: tensorrt-llm does not come from the base image" in result.stdout


def test_a_torch_beside_the_bases_ends_the_build(image: Image) -> None:
    image.in_environment("torch", "2.14.1")
    result = image.join()
    assert result.returncode == 1
    assert "error: torch does not come from the base image" in result.stdout


def test_the_grammar_compiler_is_apart_from_tensorrt_llms(image: Image) -> None:
    image.in_base("xgrammar", "0.1.32")
    assert image.join().returncode == 0
    assert image.version("xgrammar") == "0.1.32"
    apart = image.environment / "grammar"
    assert {"xgrammar", "apache_tvm_ffi"} <= {path.name for path in apart.iterdir()}
