"""Work that runs ahead of whoever uses it, in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], *, depth: int = 2) -> Iterator[T]:
    """The same items in the same order, made in another thread, of which at most ``depth`` wait to be taken.

    An error of the maker is raised where its item would have come.
    When the taker ends early, the maker is stopped at its next item, and waited for.
    """
    waiting: Queue[tuple[str, Any]] = Queue(depth)
    stopped = Event()

    def put(what: str, item: object) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((what, item), timeout=0.1)
            except Full:
                continue
            return True
        return False

    def make() -> None:
        try:
            for item in items:
                if not put("item", item):
                    break
            else:
                put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            close = getattr(items, "close", None)
            if close is not None:
                close()  # in the thread that ran it

    maker = Thread(target=make, name="ahead", daemon=True)
    maker.start()
    try:
        while True:
            what, item = waiting.get()
            if what == "end":
                return
            if what == "error":
                raise item
            yield item
    finally:
        stopped.set()
        maker.join()
