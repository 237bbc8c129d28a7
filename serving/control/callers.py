"""Who asks."""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whose request it is. What one tenant stores, or has in the cache, no other can reach."""

    tenant: str

    @property
    def cache_salt(self) -> str:
        """What parts the tenant's cached prefixes from those of all others."""
        return hashlib.sha256(self.tenant.encode()).hexdigest()


ANONYMOUS: Final = Caller(tenant="default")
"""Everybody, while nobody can be told apart."""
