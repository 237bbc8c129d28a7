"""What lives as long as the process, kept out of the way of the garbage collector."""

from __future__ import annotations

import gc


def set_aside() -> None:
    """Collects garbage, and leaves all that is alive now out of every later collection.

    To be called once, when everything is loaded. The vocabulary and the libraries are 220,000
    objects: a full collection, due every thousand requests or so, would look at each of them again
    and hold every stream for 150 ms.
    """
    gc.collect()
    gc.freeze()
