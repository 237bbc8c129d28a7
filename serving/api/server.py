"""uvicorn's server under the service's own settings: the host makes it, with the host's socket."""

from __future__ import annotations

import uvicorn

from serving.settings import Http


class Server(uvicorn.Server):
    """Serves HTTP as `settings` say; what the host's command line says of the same is not heard."""

    def __init__(self, config: uvicorn.Config, settings: Http) -> None:
        config.timeout_keep_alive = settings.keep_alive_seconds
        super().__init__(config)
