"""Work that runs ahead of whoever uses it, or beside it, in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Full, Queue
from threading import Event, Thread
from typing import Any, Generic, TypeVar

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


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor | None]:
    """A pool of ``threads``, or none for one: then work is done where it is asked for.

    On an error, what has not begun never will, and what has is waited for.
    """
    if threads <= 1:
        yield None
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="work") as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class InOrder(Generic[T]):
    """Calls made by a pool, whose results are taken in the order of the calls; an error comes in its result's place.

    Args:
        pool: what ``workers`` yields.
        depth: calls that may be under way or wait to be taken; ``put`` takes results until there are fewer.
        take: what is done with a result, in the caller's thread.
    """

    def __init__(self, pool: ThreadPoolExecutor | None, *, depth: int, take: Callable[[T], None]) -> None:
        self._pool, self._depth, self._take = pool, depth, take
        self._waiting: deque[Future[T]] = deque()

    def put(self, function: Callable[..., T], *args: Any) -> None:
        if self._pool is None:
            self._take(function(*args))
            return
        while len(self._waiting) >= self._depth:
            self._take(self._waiting.popleft().result())
        self._waiting.append(self._pool.submit(function, *args))

    def finish(self) -> None:
        """Take what is left."""
        while self._waiting:
            self._take(self._waiting.popleft().result())
