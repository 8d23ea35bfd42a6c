"""Whether the database answers, as fronts and the deep check ask for it."""

import asyncio
import threading

from mlflow_service.serving import database_health
from mlflow_service.serving.app import Service


class Database:
    """One that counts its queries and does what it is told to."""

    def __init__(self):
        self.queries = 0
        self.down = False
        self.hangs = False
        self.hanging = threading.Event()

    def query(self):
        self.queries += 1
        if self.hangs:
            self.hanging.wait(30)
        if self.down:
            raise ConnectionError


async def get(service, path="/health/ready", method="GET"):
    sent = []

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    await service({"type": "http", "method": method, "path": path, "client": None}, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


async def broken(scope, receive, send):
    raise AssertionError("MLflow itself was asked")


def service_with(database, **options):
    service = Service(broken, prefix="/tracking")
    service.readiness = database_health.Readiness(database.query, **options)
    return service


def test_ready_is_said_of_the_database_and_not_of_mlflow():
    database = Database()

    async def steps():
        service = service_with(database, shared=0.0)
        assert await get(service, "/tracking/health/ready") == (200, b"ready\n")
        database.down = True
        assert await get(service, "/tracking/health/ready") == (503, b"database\n")
        database.down = False
        assert await get(service, "/tracking/health/ready", "HEAD") == (200, b"")
        assert (await get(service, "/tracking/health/ready", "POST"))[0] == 405

    asyncio.run(steps())


def test_many_who_ask_make_one_query():
    database = Database()

    async def steps():
        service = service_with(database, shared=60.0)
        answers = await asyncio.gather(*(get(service, "/tracking/health/ready") for _ in range(50)))
        assert {status for status, _ in answers} == {200}

    asyncio.run(steps())
    assert database.queries == 1


def test_database_that_hangs_is_not_ready_and_is_asked_once():
    database = Database()
    database.hangs = True

    async def steps():
        service = service_with(database, shared=0.0, timeout=0.05)
        for _ in range(3):
            assert (await get(service, "/tracking/health/ready"))[0] == 503
        assert database.queries == 1
        database.hangs = False
        database.hanging.set()
        while (await get(service, "/tracking/health/ready"))[0] != 200:
            await asyncio.sleep(0)

    asyncio.run(steps())


def test_ready_waits_for_no_turn():
    async def steps():
        service = service_with(Database())
        while not service.turns.locked():
            await service.turns.acquire()
        assert (await get(service, "/tracking/health/ready"))[0] == 200

    asyncio.run(steps())
