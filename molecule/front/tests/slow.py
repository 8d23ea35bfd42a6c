"""Connections that are slow on purpose: ``slow.py NAME CONNECTIONS``. Says "open" once they are.

Each has made its TLS handshake and sends a byte of a request's head each second, as slow-loris does. When standard input
ends, prints how many it had opened and how many the server has still not closed ``PATIENCE`` seconds later: on a busy
machine it takes us a while to see that the server has closed a thousand.
"""

import asyncio
import json
import ssl
import sys

PATIENCE = 30  # seconds

trusted = ssl.create_default_context(cafile="/srv/ca.pem")


class Slow:
    """All connections."""

    def __init__(self) -> None:
        self.opened = self.open = 0

    async def dawdle(self, name: str) -> None:
        try:
            reader, writer = await asyncio.open_connection(name, 443, ssl=trusted, ssl_handshake_timeout=60)
        except OSError:
            return
        self.opened += 1
        self.open += 1
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: mlflow.test\r\nX-Slow: ")
            ended = asyncio.ensure_future(reader.read())
            while not ended.done():
                writer.write(b"x")
                await writer.drain()
                await asyncio.wait([ended], timeout=1)
        except OSError:
            pass
        finally:
            self.open -= 1


async def main() -> None:
    slow = Slow()
    tasks = [asyncio.create_task(slow.dawdle(sys.argv[1])) for _ in range(int(sys.argv[2]))]
    loop = asyncio.get_running_loop()
    while slow.opened < len(tasks) and not all(task.done() for task in tasks):
        await asyncio.sleep(0.1)
    print("open", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait(tasks, timeout=PATIENCE)
    print(json.dumps({"opened": slow.opened, "open": slow.open}), flush=True)
    for task in tasks:
        task.cancel()


asyncio.run(main())
