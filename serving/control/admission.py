"""Who may run now, who waits, and who is refused: tickets.

A ticket is the right of one job to have its sequences in the engine. It lives exactly as long as
the job and is released exactly once, however the job ends.
"""

from __future__ import annotations

import asyncio
from collections import deque

from serving.control.lanes import Lane
from serving.errors import ErrorKind, ServingError

RETRY_AFTER_SECONDS = 1.0


class Ticket:
    """The right to run `sequences` sequences. `release` gives it back, once."""

    __slots__ = ("_admission", "sequences")

    def __init__(self, admission: Admission, sequences: int) -> None:
        self._admission: Admission | None = admission
        self.sequences = sequences

    def release(self) -> None:
        """Gives the ticket back and lets the next in line run."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission._give_back(self.sequences)


class Waiter:
    """A job in line; `ticket` gets a result when its turn comes."""

    __slots__ = ("sequences", "ticket")

    def __init__(self, sequences: int) -> None:
        self.sequences = sequences
        self.ticket: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()


class Admission:
    """Bounded running sequences and a bounded line: lane by lane, first come first served in each.

    The invariants: `running` is the sum of the sequences of the live tickets and at most the
    capacity (unless the capacity was lowered since); nobody waits while the head of the line fits.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._lanes: dict[Lane, deque[Waiter]] = {lane: deque() for lane in Lane}
        self._waiting = 0
        self.running = 0

    @property
    def waiting(self) -> int:
        """How many jobs stand in line."""
        return self._waiting

    def waiting_in(self, lane: Lane) -> int:
        """How many jobs of one lane stand in line."""
        return len(self._lanes[lane])

    def resize(self, capacity: int) -> None:
        """Sets how many sequences may run. Running ones are never taken away."""
        self._capacity = capacity
        self._advance()

    def require_room(self) -> None:
        """Raises ServingError (OVERLOADED) when even the smallest job would be refused now.

        Asked before a request is read: to refuse must cost less than to serve.
        """
        if self._waiting >= self._max_waiting and (self._waiting or not self._fits(1)):
            raise overloaded()

    async def acquire(
        self, lane: Lane, sequences: int, queue_seconds: float, *, begun: bool = False
    ) -> Ticket:
        """Waits for a ticket. A job of more sequences than the capacity runs alone.

        Raises ServingError: OVERLOADED at once when the line is full, QUEUE_TIMEOUT after
        `queue_seconds` in it. A job that goes on with what has `begun` finds room in any line: it
        had been let in before, and their number is bounded by those who begin them.
        """
        if not self._waiting and self._fits(sequences):
            return self._grant(sequences)
        if self._waiting >= self._max_waiting and not begun:
            raise overloaded()
        waiter = Waiter(sequences)
        self._lanes[lane].append(waiter)
        self._waiting += 1
        try:
            async with asyncio.timeout(queue_seconds):
                return await waiter.ticket
        except TimeoutError:
            self._leave(lane, waiter)
            raise ServingError(
                ErrorKind.QUEUE_TIMEOUT,
                f"The request waited {queue_seconds:g} seconds for its turn. Try again later.",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            ) from None
        except BaseException:
            self._leave(lane, waiter)
            raise

    def _leave(self, lane: Lane, waiter: Waiter) -> None:
        """Takes a waiter out of the line, or its ticket back when that had just been given."""
        if waiter.ticket.done() and not waiter.ticket.cancelled():
            waiter.ticket.result().release()
        elif waiter in self._lanes[lane]:
            self._lanes[lane].remove(waiter)
            self._waiting -= 1
            self._advance()

    def _fits(self, sequences: int) -> bool:
        return self.running == 0 or self.running + sequences <= self._capacity

    def _grant(self, sequences: int) -> Ticket:
        self.running += sequences
        return Ticket(self, sequences)

    def _give_back(self, sequences: int) -> None:
        self.running -= sequences
        self._advance()

    def _advance(self) -> None:
        """Lets in every job at the head of the line that fits, the first lane first."""
        for line in self._lanes.values():
            while line:
                waiter = line[0]
                if not waiter.ticket.cancelled():  # else its task has yet to run and leave
                    if not self._fits(waiter.sequences):
                        return
                    waiter.ticket.set_result(self._grant(waiter.sequences))
                line.popleft()
                self._waiting -= 1


def overloaded() -> ServingError:
    """Returns what a request is told that finds no room."""
    return ServingError(
        ErrorKind.OVERLOADED,
        "The server has as many requests as it can hold. Try again later.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
