"""A file server on this machine whose manners a test chooses."""

from __future__ import annotations

from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

CONTENT = bytes(range(256)) * 2000


@dataclass
class Site:
    """A file server whose manners a test chooses; ``asked`` holds the path and range of every request."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=lambda: {"/file.zip": CONTENT})
    ranges: bool = True
    tag: str = '"one"'
    most: int | None = None  # bytes of one answer, after which the connection ends
    failures: list[int] = field(default_factory=list)  # codes of the next answers
    asked: list[tuple[str, str]] = field(default_factory=list)

    def url(self, name: str = "file.zip") -> str:
        return f"{self.address}/{name}"


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, wanted = self.site, self.headers.get("Range", "")
        site.asked.append((self.path, wanted))
        if site.failures:
            self.send_error(site.failures.pop(0))
            return
        if self.path not in site.files:
            self.send_error(404)
            return
        content, start = site.files[self.path], 0
        if wanted and site.ranges and self.headers.get("If-Range", site.tag) == site.tag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", site.tag)
        self.end_headers()
        self.wfile.write(content[start:][: site.most])

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
