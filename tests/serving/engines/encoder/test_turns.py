"""Turns by what each request has had."""

from __future__ import annotations

from serving.engines.encoder.turns import Turns


def served(turns: Turns, costs: dict[int, int]) -> int:
    """Lets the next request have its piece, and returns it."""
    request = turns.next(costs.__getitem__)
    turns.charge(request, costs[request])
    return request


def test_shares_are_of_work_and_not_of_pieces() -> None:
    turns = Turns()
    costs = {1: 10, 2: 30}
    for request in costs:
        turns.begin(request)
    order = [served(turns, costs) for _ in range(40)]
    assert order.count(1) == 3 * order.count(2)


def test_a_newcomer_has_no_claim_on_what_was_done_before_it_came() -> None:
    turns = Turns()
    costs = {1: 10, 2: 10}
    turns.begin(1)
    for _ in range(50):
        served(turns, costs)
    turns.begin(2)
    assert sorted(served(turns, costs) for _ in range(10)) == [1] * 5 + [2] * 5


def test_who_has_left_has_no_turn() -> None:
    turns = Turns()
    turns.begin(1)
    turns.begin(2)
    turns.end(1)
    turns.end(7)
    assert served(turns, {1: 1, 2: 100}) == 2
