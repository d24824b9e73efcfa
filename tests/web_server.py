"""Web servers of this machine with the files of a folder: a plain one, and one with as much S3 as reading takes."""

import threading
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from hashlib import md5
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape


class Files(SimpleHTTPRequestHandler):
    """What is in a folder, but no lists of files; and nothing from ``/secret``."""

    def do_GET(self):
        """Answer."""
        if "secret" in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def list_directory(self, path):
        """There are none."""
        self.send_error(404)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class Faltering(Files):
    """Metadata come at once, of chunks nothing ever does."""

    over = threading.Event()

    def do_GET(self):
        """Answer."""
        if "/c/" in self.path:
            self.over.wait(30)
        else:
            super().do_GET()


class Bucket(Files):
    """Folders of the folder are buckets: whole objects, ranges of bytes, lists of a bucket's objects (version 2)."""

    def do_GET(self):
        """Answer."""
        asked = parse_qs(urlsplit(self.path).query)
        if "list-type" in asked:
            self._answer(200, self._listed(asked.get("prefix", [""])[0]).encode(), "application/xml")
            return
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>There is none.</Message></Error>",
                         "application/xml")
            return
        data, wanted = path.read_bytes(), self.headers.get("Range")
        if wanted is None:
            self._answer(200, data)
            return
        first, last = wanted.removeprefix("bytes=").split("-")
        if int(first) >= len(data):
            self._answer(416, b"<Error><Code>InvalidRange</Code><Message>Beyond the end.</Message></Error>",
                         "application/xml")
            return
        part = data[int(first) : int(last) + 1 if last else None]
        self._answer(206, part, **{"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"})

    def _listed(self, prefix):
        root = Path(self.translate_path(urlsplit(self.path).path))
        rows = [f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>&quot;{md5(path.read_bytes()).hexdigest()}&quot;</ETag><Size>{path.stat().st_size}</Size>"
                "<StorageClass>STANDARD</StorageClass></Contents>"
                for path in sorted(root.rglob("*")) if path.is_file()
                and (key := path.relative_to(root).as_posix()).startswith(prefix)]
        return (f"<ListBucketResult><Name>{root.name}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(rows)}"
                f"</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{''.join(rows)}</ListBucketResult>")

    def _answer(self, code, body, kind="application/octet-stream", **more):
        self.send_response(code)
        tag = f'"{md5(body).hexdigest()}"'
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), "ETag": tag,
                            "Last-Modified": formatdate(0, usegmt=True), **more}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler, folder):
    """The address of a server, for the time being."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()
