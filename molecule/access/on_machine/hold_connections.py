"""Open connections that never finish their request: ``hold_connections.py PORT COUNT``.

Prints ``open`` once all are open, sends a byte of a header on each now and then, and at the end of
standard input closes them and ends.
"""

import resource
import select
import socket
import sys

port, count = int(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
connections = []
for _ in range(count):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(b"POST /api/2.0/mlflow/runs/search HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
    connections.append(connection)
print("open", flush=True)
while not select.select([sys.stdin], [], [], 1)[0]:
    for connection in connections:
        try:
            connection.send(b"x")
        except OSError:
            continue  # the server has closed it, which is its right
