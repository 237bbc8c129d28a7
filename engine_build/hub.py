"""The files of a hub in Hugging Face's layout: their addresses, and why one is not to be had.

Nothing but files' addresses is asked, and nothing of this machine is told. So huggingface_hub says
where a file is, and does not fetch it: it would ask for a list of programs first, and name the
packages that it finds.
HF_ENDPOINT, HF_TOKEN (else the token that `hf auth login` left) and HF_HUB_OFFLINE are respected.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx2
from huggingface_hub import hf_hub_url

DEFAULT_ENDPOINT = "https://huggingface.co"
USER_AGENT = "gpt-oss-120b"
TIMEOUT_SECONDS = 60.0
THROTTLED_SECONDS = 60.0
"""How long to wait for a server that has had too many requests and does not say until when."""
TOO_MANY_REQUESTS = 429

_TRUE = frozenset({"1", "on", "yes", "true"})
_EPOCH_SECONDS = 1_000_000_000
"""A larger number is a time of day, not a number of seconds."""
_REASONS = {
    "GatedRepo": "no access; accept the model's terms and set HF_TOKEN",
    "RepoNotFound": "the server knows no such repository, or HF_TOKEN may not see it",
    "RevisionNotFound": "the revision is gone",
}
_RESET = re.compile(r"\bt=(\d+)")


class HubError(Exception):
    """A file cannot be fetched now. `wait_seconds` is the wait that the server asks for; `may_pass`
    tells whether another try can help."""

    def __init__(self, reason: str, *, may_pass: bool, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.may_pass = may_pass
        self.wait_seconds = wait_seconds


def address(
    repository: str,
    revision: str,
    path: str,
    endpoint: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Returns where a file of a revision is. `endpoint` None is what the environment says."""
    root = endpoint or environ.get("HF_ENDPOINT") or DEFAULT_ENDPOINT
    return hf_hub_url(repository, path, revision=revision, endpoint=root.rstrip("/"))


@contextmanager
def opened(
    url: str, begin: int = 0, *, method: str = "GET", environ: Mapping[str, str] = os.environ
) -> Iterator[httpx2.Response]:
    """Yields the response for a file from byte `begin` on. Raises HubError, also while reading."""
    if environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE:
        raise HubError("not here, and HF_HUB_OFFLINE forbids to fetch it", may_pass=False)
    headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
    if (token := _token(environ)) is not None:
        headers["Authorization"] = f"Bearer {token}"
    if begin:
        headers["Range"] = f"bytes={begin}-"
    try:
        with (
            httpx2.Client(follow_redirects=True, timeout=TIMEOUT_SECONDS) as client,
            client.stream(method, url, headers=headers) as response,
        ):
            if response.is_error:
                raise _refusal(response)
            yield response
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        may_pass = isinstance(error, httpx2.TransportError)
        raise HubError(f"cannot be fetched: {reason}", may_pass=may_pass) from None


def asked_wait_seconds(headers: Mapping[str, str], now: float) -> float | None:
    """Returns how long the headers of a response ask to wait, None where they do not.

    `now` is seconds since 1970. Retry-After is of RFC 9110; `RateLimit: r=0;t=42`
    and RateLimit-Reset are of IETF drafts, X-RateLimit-Reset is a custom.
    """
    waits = [_after(headers.get("retry-after", ""), now)]
    reset = _RESET.search(headers.get("ratelimit", ""))
    waits.append(float(reset[1]) if reset else None)
    waits += [
        _after(headers.get(name, ""), now) for name in ("ratelimit-reset", "x-ratelimit-reset")
    ]
    return max((wait for wait in waits if wait is not None), default=None)


def _after(value: str, now: float) -> float | None:
    """Returns the seconds until what a header gives as seconds or as a time of day."""
    with suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds - now if seconds > _EPOCH_SECONDS else seconds)
    with suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    return None


def _refusal(response: httpx2.Response) -> HubError:
    status = response.status_code
    reason = _REASONS.get(response.headers.get("x-error-code", ""))
    if reason is None and status in (401, 403):
        reason = _REASONS["GatedRepo"]
    if reason is not None and status < 500:
        return HubError(reason, may_pass=False)
    may_pass = status == TOO_MANY_REQUESTS or status >= 500
    wait_seconds = asked_wait_seconds(response.headers, time.time()) if may_pass else None
    if wait_seconds is None and status == TOO_MANY_REQUESTS:
        wait_seconds = THROTTLED_SECONDS
    host = response.url.host
    return HubError(
        f"cannot be fetched: {host} answers {status} {response.reason_phrase}",
        may_pass=may_pass,
        wait_seconds=wait_seconds,
    )


def _token(environ: Mapping[str, str]) -> str | None:
    """Returns the operator's token for the hub, None where there is none."""
    if environ.get("HF_TOKEN", "").strip():
        return environ["HF_TOKEN"].strip()
    if environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return None
    home = environ.get("HF_HOME") or "~/.cache/huggingface"
    path = Path(os.path.expanduser(environ.get("HF_TOKEN_PATH") or f"{home}/token"))
    with suppress(OSError):
        return path.read_text(encoding="utf-8").strip() or None
    return None
