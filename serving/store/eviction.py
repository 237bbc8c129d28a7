"""What must go: what nobody used for long, and what was used longest ago where room is needed."""

from __future__ import annotations

import sqlite3

from serving.settings import Store

_OLDEST = """
SELECT used, number, bytes, 'responses' FROM responses WHERE id NOT IN (SELECT id FROM running)
UNION ALL SELECT used, number, bytes, 'conversations' FROM conversations
ORDER BY 1, 2 DESC
"""


def since(settings: Store, now: float) -> float:
    """Returns the time of the last use before which everything is as good as gone."""
    return now - settings.keep_seconds


def evict(database: sqlite3.Connection, settings: Store, now: float) -> None:
    """Deletes what is too old, then what was used longest ago, until the bounds hold.

    The bound of bytes is one for responses and conversations together. A response in the making
    stays: its end would find no place.
    """
    for table in ("responses", "conversations"):
        database.execute(
            f"DELETE FROM {table} WHERE used < ? AND id NOT IN (SELECT id FROM running)",  # noqa: S608
            (since(settings, now),),
        )
    most = {"responses": settings.max_responses, "conversations": settings.max_conversations}
    counts: dict[str, int] = {}
    size = 0
    for table in most:
        counts[table], bytes_of_table = database.execute(
            f"SELECT count(*), coalesce(sum(bytes), 0) FROM {table}"  # noqa: S608
        ).fetchone()
        size += bytes_of_table
    doomed: dict[str, list[tuple[int]]] = {table: [] for table in most}
    oldest = database.execute(_OLDEST)
    while size > settings.max_bytes or any(counts[table] > most[table] for table in most):
        row = oldest.fetchone()
        if row is None:
            break
        _, number, freed, table = row
        if size > settings.max_bytes or counts[table] > most[table]:
            doomed[table].append((number,))
            counts[table], size = counts[table] - 1, size - freed
    oldest.close()
    for table, numbers in doomed.items():
        database.executemany(f"DELETE FROM {table} WHERE number = ?", numbers)  # noqa: S608
