"""The clients for JavaScript; their packages are installed beside the test itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def test_the_clients_for_javascript(url: str, model: str) -> None:
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", "clients.test.mjs"],
        cwd=Path(os.environ["CLIENTS"]) / "node",
        env={**os.environ, "SERVICE_URL": url, "SERVICE_MODEL": model},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
