"""The line to paste, wherever the API is served: IPv6, TLS, every interface, a Unix socket."""

from __future__ import annotations

import json
import signal
import ssl
import stat
import subprocess
from pathlib import Path

from tests.commands import Served, serve

ANSWER = "Yes."


def certificate(directory: Path, name: str) -> tuple[Path, Path]:
    """Writes a certificate and its key, over those that are there, and returns their paths."""
    paths = directory / "certificate.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", f"/CN={name}"]
    command += ["-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run(command, check=True, capture_output=True)
    return paths


def paste(line: str) -> str:
    """Returns what the closing line's command is answered with, run by a shell as it stands."""
    command = line[line.index("curl ") :]
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    return str(answer["choices"][0]["message"]["content"])


def test_tls_ipv6_and_a_prefix_from_the_settings(engine: Path, tmp_path: Path) -> None:
    paths = certificate(tmp_path, "first.example")
    extra = {
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_HTTP__TLS_CERTIFICATE": str(paths[0]),
        "GPT_OSS_HTTP__TLS_KEY": str(paths[1]),
        "GPT_OSS_HTTP__ROOT_PATH": "/llm",
    }
    with serve(tmp_path / "home", "--host", "::1", extra=extra) as served:
        line = served.wait_until_ready()
        port = int(served.url.rsplit(":", 1)[1])
        assert line.startswith(f"Ready: https://[::1]:{port}/llm/v1 - ")
        assert "Ready: http:" not in served.output
        assert "http://" not in served.output
        assert paste(line) == ANSWER
        first = ssl.get_server_certificate(("::1", port))
        assert first.split() == paths[0].read_text().split()
        certificate(tmp_path, "second.example")
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("SIGHUP: the certificate was read again")
        second = ssl.get_server_certificate(("::1", port))
        assert second.split() == paths[0].read_text().split() != first.split()
        (tmp_path / "other").mkdir()
        paths[0].write_bytes(certificate(tmp_path / "other", "third.example")[0].read_bytes())
        served.process.send_signal(signal.SIGHUP)
        served.wait_for("SIGHUP: the certificate cannot be read again")
        assert ssl.get_server_certificate(("::1", port)) == second
        assert paste(line) == ANSWER


def test_every_interface_and_tls_from_the_command_line(engine: Path, tmp_path: Path) -> None:
    paths = certificate(tmp_path, "localhost")
    options = ["--host", "0.0.0.0", "--ssl-certfile", str(paths[0]), "--ssl-keyfile", str(paths[1])]  # noqa: S104
    with serve(tmp_path / "home", *options, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        line = served.wait_until_ready()
        port = served.url.rsplit(":", 1)[1]
        assert line.startswith(f"Ready: https://127.0.0.1:{port}/v1 - ")
        assert paste(line) == ANSWER


def unix(engine: Path, path: Path) -> dict[str, str]:
    """Returns the settings of a service on a Unix socket for its group."""
    return {
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_HTTP__UNIX_SOCKET": str(path),
        "GPT_OSS_HTTP__UNIX_SOCKET_MODE": "660",
    }


def check(served: Served, path: Path) -> None:
    """Checks that a service is on its Unix socket, and nowhere else."""
    line = served.wait_until_ready()
    assert f"--unix-socket {path}" in line
    assert paste(line) == ANSWER
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert served.sockets() == (set(), {str(path)})


def test_a_unix_socket_instead_of_a_port(engine: Path, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with serve(tmp_path / "home", extra=unix(engine, path)) as served:
        check(served, path)
        with serve(tmp_path / "other", extra=unix(engine, path)) as second:
            assert second.wait_for_exit() != 0
            assert "another service listens there" in second.wait_for("^Error: ")
            assert "Traceback" not in second.output
        check(served, path)
        served.process.kill()
        served.wait_for_exit()
    assert path.exists()  # nobody was left to remove it
    with serve(tmp_path / "home", extra=unix(engine, path)) as served:
        check(served, path)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
    assert not path.exists()


def test_a_certificate_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    extra = {"GPT_OSS_HTTP__TLS_CERTIFICATE": str(tmp_path / "none.pem")}
    with serve(tmp_path, extra=extra) as served:
        assert served.wait_for_exit() != 0
        assert "tls_certificate" in served.wait_for("^Error: ")
        assert "Traceback" not in served.output
