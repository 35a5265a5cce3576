"""Work in a thread of its own: the same items, the same errors, and nothing left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from cellmill.ahead import ahead


def test_items_come_in_their_order() -> None:
    """Also where the taker is slower than the maker, and the other way round."""
    assert list(ahead(iter(range(1000)), depth=3)) == list(range(1000))
    assert list(ahead(iter([]))) == []


def test_items_are_made_while_the_taker_works_and_few_wait() -> None:
    """At most ``depth`` wait, and one is under way."""
    made: list[int] = []

    def make() -> Iterator[int]:
        for i in range(20):
            made.append(i)
            yield i

    items = ahead(make(), depth=2)
    assert next(items) == 0
    until = time.monotonic() + 10
    while len(made) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == [0, 1, 2, 3]
    assert list(items) == list(range(1, 20))


def test_an_error_of_the_maker_comes_where_its_item_would_have() -> None:
    """With its own type and text, after the items before it."""

    def make() -> Iterator[int]:
        yield 1
        raise ValueError("damaged")

    items = ahead(make())
    assert next(items) == 1
    with pytest.raises(ValueError, match="damaged"):
        next(items)


def test_a_taker_that_stops_early_stops_the_maker() -> None:
    """What the maker opened is closed, and its thread is gone."""
    before, closed = threading.active_count(), []

    def make() -> Iterator[int]:
        try:
            while True:
                yield 0
        finally:
            closed.append(threading.current_thread().name)

    items = ahead(make())
    next(items)
    items.close()  # type: ignore[attr-defined]
    assert closed == ["ahead"] and threading.active_count() == before
