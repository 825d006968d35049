"""The pages in a real browser, below a sub-path of a file server: no error, no request elsewhere, no overflow."""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next((path for path in map(shutil.which, NAMES) if path), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no browser here: none of " + ", ".join(NAMES))
ARGUMENTS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *said):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as it is built from the published notebooks, served below `/some/book/`."""
    from vtd import book

    top = tmp_path_factory.mktemp("served")
    out = Path(book.build(out=top / "some" / "book", quarto=False))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(top)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield out, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as play:
        program = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS.split())
        yield program
        program.close()


def visit(browser, site, size, scheme):
    """Open every page; returns what went wrong."""
    out, host = site
    faults = []
    page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
    page.on("console", lambda said: said.type == "error" and faults.append(f"{page.url}: {said.text}"))
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    local = (host, "data:", "blob:")
    page.on("request", lambda asked: asked.url.startswith(local) or faults.append(f"{page.url} asks for {asked.url}"))
    page.on("response", lambda got: got.status >= 400 and faults.append(f"{got.url}: {got.status}"))
    for file in sorted(out.rglob("*.html")):
        if "_static" in file.parts or file.name in {"search.html", "genindex.html"}:
            continue
        page.goto(f"{host}/some/book/{file.relative_to(out).as_posix()}")
        for plot in page.query_selector_all(".vtd-plot"):
            plot.scroll_into_view_if_needed()
            page.wait_for_function("plot => plot.dataset.drawn", arg=plot, timeout=20_000)
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        faults += [f"{file.name} is {wide} pixels too wide at {size['width']}"] if wide > 1 else []
    return faults


def test_every_page_on_a_desk(site, browser):
    assert visit(browser, site, {"width": 1200, "height": 900}, "light") == []


def test_every_page_on_a_telephone_in_the_dark(site, browser):
    assert visit(browser, site, {"width": 400, "height": 800}, "dark") == []


def test_search_finds_a_page(site, browser):
    page = browser.new_page()
    page.goto(f"{site[1]}/some/book/search.html?q=codebook")
    page.wait_for_selector("#search-results li a", timeout=20_000)
    assert page.locator("#search-results li").count() >= 1


def test_the_command_box_follows_its_fields(site, browser):
    from vtd import lab

    chapters = lab.chapters()
    if not chapters:
        pytest.skip("no chapter yet")
    page = browser.new_page()
    page.goto(f"{site[1]}/some/book/chapters/{next(iter(chapters.values())).stem}.html")
    field = page.locator(".vtd-run input").first
    field.fill("7")
    slug, name = next(iter(chapters)), field.get_attribute("name")
    assert page.locator(".vtd-command code").first.text_content() == f"vtd run {slug} -p {name}=7"
