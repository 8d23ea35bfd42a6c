"""A company's way to packages: a mirror of an index (/simple/) and an HTTP proxy for apt, both with the same login.

python3 network.py PORT FILE ORIGIN    # FILE has name:password, ORIGIN is the index, without /simple
"""

import base64
import shutil
import sys
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ORIGIN = sys.argv[3].rstrip("/")
ASKED_FOR = ("Accept", "Range", "If-Range", "If-Modified-Since", "User-Agent", "Cache-Control")
ANSWERED = ("Content-Type", "Content-Length", "Content-Range", "Last-Modified", "ETag", "Cache-Control")
LOGIN = "Basic " + base64.b64encode(Path(sys.argv[2]).read_bytes().strip()).decode()


class Handler(BaseHTTPRequestHandler):
    """Passes on what is asked for by those who have the login."""

    def do_GET(self) -> None:
        through = self.path.startswith("http://")
        if self.headers.get("Proxy-Authorization" if through else "Authorization") != LOGIN:
            self.send_response(407 if through else 401)
            self.send_header("Proxy-Authenticate" if through else "WWW-Authenticate", 'Basic realm="network"')
            self.end_headers()
            return
        headers = {name: self.headers[name] for name in ASKED_FOR if name in self.headers}
        url = self.path if through else ORIGIN + self.path
        try:
            answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self.send_response(answer.status)
            for name in ANSWERED:
                if name in answer.headers:
                    self.send_header(name, answer.headers[name])
            self.end_headers()
            shutil.copyfileobj(answer, self.wfile)


ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
