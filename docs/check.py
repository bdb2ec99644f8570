"""Looks at the built site: `make docs-check`.

Every link leads to a page, and to a part of it that is there; headless Chromium opens each page,
and finds no error in its console.
"""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom")
# A site without an address of its own has no sitemap; the theme asks for one, and goes on.
HARMLESS = ("sitemap.xml",)


class Links(HTMLParser):
    """Collects what a page leads to, and the parts that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.targets: list[str] = []
        self.parts: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collects from a tag."""
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.targets.append(value)
            if name in ("id", "name") and value:
                self.parts.add(value)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class Server(http.server.ThreadingHTTPServer):
    """A server that says nothing of a browser that goes away before it has all of a page."""

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing."""


def broken(site: Path, pages: dict[Path, Links]) -> Iterator[str]:
    """Yields a line for each link that leads nowhere."""
    for page, links in pages.items():
        for target in links.targets:
            link, part = urldefrag(target)
            if urlsplit(target).scheme or page.name == "404.html":
                continue
            file = (page.parent / unquote(link)).resolve() if link else page
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                yield f"{page.relative_to(site)}: {target} leads nowhere"
            elif part and file in pages and unquote(part) not in pages[file].parts:
                yield f"{page.relative_to(site)}: {target} has no such part"


def serve(site: Path) -> str:
    """Serves the site in the background; returns its address."""
    handler = functools.partial(Quiet, directory=str(site))
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def console_errors(browser: str, address: str) -> list[str]:
    """Returns what the console of a page says is wrong."""
    done = subprocess.run([browser, *FLAGS, address], capture_output=True, text=True, timeout=120)
    said = re.findall(r'CONSOLE:?\S*\] "(.*?)", source', done.stderr)
    return [line for line in said if not any(word in line for word in HARMLESS)]


def main(site: Path) -> int:
    """Checks a site; returns the exit code."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("error: no Chromium is installed; on Debian: apt-get install chromium")
        return 2
    pages = {page.resolve(): Links(page.read_text()) for page in site.rglob("*.html")}
    wrong = list(broken(site.resolve(), pages))
    address = serve(site)
    for count, page in enumerate(sorted(pages), start=1):
        place = page.relative_to(site.resolve()).as_posix().removesuffix("index.html")
        print(f"\r{count}/{len(pages)} pages", end="", flush=True)
        wrong += [f"{place}: {said}" for said in console_errors(browser, f"{address}/{place}")]
    print()
    for line in wrong:
        print(f"error: {line}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
