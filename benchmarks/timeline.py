"""When each token of each stream came."""

from __future__ import annotations

import msgspec


class Timeline(msgspec.Struct, frozen=True):
    """The tokens of each prompt and when each came, in seconds from when all were submitted."""

    tokens: list[list[int]]
    seconds: list[list[float]]

    @property
    def first_token_seconds(self) -> float:
        """When the last of the streams got its first token."""
        return max(times[0] for times in self.seconds)

    @property
    def decode_tokens_per_second(self) -> float:
        """The rate of all streams together, from when each of them has its first token."""
        start = self.first_token_seconds
        end = max(times[-1] for times in self.seconds)
        count = sum(at > start for times in self.seconds for at in times)
        return count / (end - start)
