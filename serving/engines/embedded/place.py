"""A rank's place in a mesh, as the build cuts for it and the runtime computes from it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """One rank in a mesh of tensor parallel ranks, whose experts are in expert parallel parts."""

    tensor_parallel: int
    expert_parallel: int
    rank: int

    @property
    def expert_part(self) -> int:
        """Which of `expert_parallel` parts of the experts it holds."""
        return self.rank % self.expert_parallel

    @property
    def inner_part(self) -> int:
        """Which of `inner_parallel` parts of their inner dimension."""
        return self.rank // self.expert_parallel

    @property
    def inner_parallel(self) -> int:
        """Into how many parts an expert is cut."""
        return self.tensor_parallel // self.expert_parallel
