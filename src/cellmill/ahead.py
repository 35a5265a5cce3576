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


class Workers:
    """A number of threads, and the pool that they are where there is more than one."""

    def __init__(self, threads: int, pool: ThreadPoolExecutor | None) -> None:
        self.threads, self.pool = threads, pool


@contextmanager
def workers(threads: int) -> Iterator[Workers]:
    """Threads to work in; with one, work is done where it is asked for.

    On an error, what has not begun never will, and what has is waited for.
    """
    if threads <= 1:
        yield Workers(1, None)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="work") as pool:
        try:
            yield Workers(threads, pool)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class InOrder(Generic[T]):
    """Calls made by workers, whose results are taken in the order of the calls; an error comes in its result's place.

    Args:
        take: what is done with a result, in the caller's thread.
        calls_per_worker: how many may be under way or wait to be taken; ``put`` takes results until there are fewer.
    """

    def __init__(self, workers: Workers, *, take: Callable[[T], None], calls_per_worker: int = 2) -> None:
        self._pool, self._take, self._most = workers.pool, take, calls_per_worker * workers.threads
        self._waiting: deque[Future[T]] = deque()

    def put(self, function: Callable[..., T], *args: Any) -> None:
        if self._pool is None:
            self._take(function(*args))
            return
        while len(self._waiting) >= self._most:
            self._take(self._waiting.popleft().result())
        self._waiting.append(self._pool.submit(function, *args))

    def finish(self) -> None:
        """Take what is left."""
        while self._waiting:
            self._take(self._waiting.popleft().result())
