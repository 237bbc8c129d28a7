"""`x-request-timeout-ms`: a client may ask for less time than the service gives, never for more."""

from __future__ import annotations

from starlette.types import Scope

from serving.errors import ErrorKind, ServingError

HEADER = "x-request-timeout-ms"


def requested_seconds(scope: Scope) -> float | None:
    """Returns the time that the client gives its request, in seconds, or None.

    Raises ServingError for anything but a whole number of milliseconds, 1 or more.
    """
    name = HEADER.encode()
    for header, value in scope["headers"]:
        if header == name:
            if not value.isdigit() or len(value) > 12 or int(value) == 0:
                raise ServingError(
                    ErrorKind.INVALID_VALUE,
                    f"The header '{HEADER}' must be a whole number of milliseconds.",
                    param=HEADER,
                )
            return int(value) / 1000.0
    return None
