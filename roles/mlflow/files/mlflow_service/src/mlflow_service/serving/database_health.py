"""Whether the database answers, for ``GET /health/ready``: fronts and the deep check go by it.

The query runs beside the requests, in a thread of its own, so that neither the turns of requests nor
a full thread pool stand in its way. There is at most one at a time, and its result is shared for a
moment, so that nobody can load the database by asking.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable

QUERY = "SELECT version_num FROM alembic_version"
SHARED_SECONDS = 1.0
TIMEOUT_SECONDS = 3.0

log = logging.getLogger("mlflow_service")


def query_store() -> None:
    """One small query through a connection of MLflow's own pool; raises what the driver raises."""
    import sqlalchemy
    from mlflow.server.handlers import _get_tracking_store

    with _get_tracking_store().engine.connect() as connection:
        connection.execute(sqlalchemy.text(QUERY)).all()


class Readiness:
    """The last answer of the database.

    Args:
        query: raises where the database does not answer; may hang.
        shared: seconds for which an answer is not asked for again.
        timeout: seconds after which a database that has not answered counts as one that does not.
    """

    def __init__(
        self, query: Callable[[], None] = query_store, shared: float = SHARED_SECONDS, timeout: float = TIMEOUT_SECONDS
    ) -> None:
        self.query = query
        self.shared = shared
        self.timeout = timeout
        self.asked_at = 0.0
        self.answer: asyncio.Future[bool] | None = None
        self.said = True

    async def ask(self) -> bool:
        """Whether the database answers; itself takes no longer than the time-out."""
        now = time.monotonic()
        if self.answer is None or (self.answer.done() and now - self.asked_at >= self.shared):
            self.asked_at = now
            self.answer = self.start()
        left = max(0.0, self.asked_at + self.timeout - now)
        done, _ = await asyncio.wait([self.answer], timeout=left)
        answers = bool(done) and self.answer.result()
        if answers != self.said:
            self.said = answers
            log.log(
                logging.INFO if answers else logging.WARNING,
                "the database %s",
                "answers" if answers else "does not answer",
            )
        return answers

    def start(self) -> asyncio.Future[bool]:
        """Run the query in a thread, which does not keep the worker from ending."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[bool] = loop.create_future()

        def settle(answers: bool) -> None:
            if not answer.done():
                answer.set_result(answers)

        def run() -> None:
            try:
                self.query()
                answers = True
            except Exception:
                answers = False
            with contextlib.suppress(RuntimeError):  # the worker has ended
                loop.call_soon_threadsafe(settle, answers)

        threading.Thread(target=run, daemon=True, name="readiness").start()
        return answer


def main() -> None:
    """Ask the database once, by the settings in the environment, without a server; ends with 0 where it answers."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(os.environ["MLFLOW_BACKEND_STORE_URI"], poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(QUERY)).all()


if __name__ == "__main__":
    main()
