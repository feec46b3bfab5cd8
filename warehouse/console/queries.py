"""Queries in a thread of their own, so that Ctrl-C is always heard."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from warehouse.errors import RoundhouseError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_BATCH_ROWS = 10_000
_Result = TypeVar("_Result")


class QueryCancelled(RoundhouseError):
    """Ctrl-C came while a query ran; the connection is good for the next one."""


class OutputError(RoundhouseError, ValueError):
    """An answer that cannot be written this way; the message says what would work."""

    exit_code = 2


class Queries:
    """Runs what waits for the database in a thread of its own, so that Ctrl-C is always heard."""

    def __init__(self, con: duckdb.DuckDBPyConnection) -> None:
        self.con = con

    def call(self, work: Callable[[], _Result]) -> _Result:
        """The result of `work`. Raises what it raises, and QueryCancelled after Ctrl-C."""
        results: list[_Result] = []
        errors: list[BaseException] = []
        # Not Thread.join: interrupted, it takes a running thread for a finished one (Python 3.11).
        done = threading.Event()

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 (handed to the caller, below)
                errors.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=run, daemon=True)
        try:
            thread.start()  # Ctrl-C may come while this waits for the thread to run
            done.wait()
        except KeyboardInterrupt:
            # Again and again: an interrupt before the query has begun is forgotten by then. And
            # whatever came back, a stream that was interrupted may look as if it had ended.
            while thread.is_alive() and not done.is_set():
                self.con.interrupt()
                done.wait(0.05)
            raise QueryCancelled from None
        if errors:
            raise errors[0]
        return results[0]

    def batches(self, relation: duckdb.DuckDBPyRelation) -> Iterator[pa.RecordBatch]:
        """The rows of `relation`, some thousand at a time. Raises what DuckDB raises."""
        import duckdb

        reader = self.call(lambda: relation.to_arrow_reader(_BATCH_ROWS))
        try:
            while True:
                try:
                    batch = self.call(reader.read_next_batch)
                except StopIteration:
                    return
                except OSError as error:  # as pyarrow passes on an error of the query
                    raise duckdb.Error(str(error)) from error
                if batch.num_rows:
                    yield batch
        finally:
            # Else the connection would refuse the next query.
            reader.close()
