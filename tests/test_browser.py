"""The pages in a real browser, below a sub-path of a file server: no error, no request elsewhere, no overflow."""

import json
from pathlib import Path

import laboratory
import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(laboratory.BROWSER is None, reason="no browser here: none of " + ", ".join(laboratory.NAMES))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as it is built from the published notebooks, served below `/some/book/`."""
    from vtd.site import build

    top = tmp_path_factory.mktemp("served")
    out = Path(build(out=top / "some" / "book", quarto=False))
    with laboratory.served(top) as address: yield out, address


@pytest.fixture(scope="module")
def browser():
    with laboratory.chromium() as program: yield program


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
    assert visit(browser, site, {"width": 375, "height": 800}, "dark") == []


def html_pages(out):
    """Every page of the book itself."""
    return [f for f in sorted(out.rglob("*.html")) if "_static" not in f.parts and f.name not in {"search.html", "genindex.html"}]


def test_no_page_is_heavy(site):
    heavy = {f.name: f.stat().st_size for f in html_pages(site[0]) if f.stat().st_size > 300_000}
    assert heavy == {}


def test_search_finds_every_chapter(site, browser):
    """By the words of its name."""
    from vtd import lab

    page = browser.new_page()
    for slug, path in lab.chapters().items():
        page.goto(f"{site[1]}/some/book/search.html?q={slug.replace('-', '+')}")
        found = "stem => [...document.querySelectorAll('#search-results a')].some(a => a.href.includes(stem))"
        page.wait_for_function(found, arg=path.stem, timeout=20_000)


KINDS = ("index.html", "ledger.html", "log.html", "chapters/02_mode_collapse.html", "chapters/11_writing_pages.html", "lib/00_grids.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_anybody_can_read_every_kind_of_page(site, browser, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page, found = browser.new_context(viewport={"width": 1200, "height": 900}, color_scheme=scheme).new_page(), {}
    for kind in KINDS:
        page.goto(f"{site[1]}/some/book/{kind}")
        for plot in page.query_selector_all(".vtd-plot"):
            plot.scroll_into_view_if_needed()
            page.wait_for_function("plot => plot.dataset.drawn", arg=plot, timeout=20_000)
        keep(page, f"{kind.replace('/', '-')}-{scheme}")
        found |= {f"{kind}: {v['id']}": [node["html"][:120] for node in v["nodes"][:3]] for v in axe.run(page).response["violations"]}
    assert found == {}


def keep(page, name):
    """A screenshot for people, in a folder that git ignores."""
    folder = ROOT / "_proc" / "shots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=str(folder / f"{name}.png"))


def test_players_answer_to_keys(site, browser):
    page, played = browser.new_context(reduced_motion="reduce").new_page(), 0
    for file in html_pages(site[0]):
        if "data-vtd-player" not in file.read_text(): continue
        page.goto(f"{site[1]}/some/book/{file.relative_to(site[0]).as_posix()}")
        for player in page.locator(".vtd-player").all():
            if player.locator("input").count() == 0: continue
            player.scroll_into_view_if_needed()
            page.wait_for_function("p => p.dataset.ready", arg=player.element_handle())
            slider, said = player.locator("input"), lambda p=player: p.locator("output").text_content()
            slider.focus()
            page.keyboard.press("Home")
            first = said()
            page.keyboard.press("ArrowRight")
            assert said() != first, file
            page.keyboard.press("End")
            assert slider.input_value() == slider.get_attribute("max")
            played += 1
    assert played >= 2


def test_the_ledger_filters_and_sorts(site, browser):
    from vtd import lab

    table = lab.ledger()
    page = browser.new_page()
    page.goto(f"{site[1]}/some/book/ledger.html")
    rows = page.locator(".vtd-ledger tbody tr:visible")
    assert rows.count() == len(table)
    for verdict in ("refuted", "depends", "not yet measured"):
        page.locator(f".vtd-ledger-tools input[value='{verdict}']").uncheck()
    assert rows.count() == (table.verdict == "holds").sum()
    page.locator(".vtd-ledger-tools input[type=search]").fill("no such words anywhere")
    assert rows.count() == 0 and page.locator(".vtd-ledger-tools output").text_content() == f"0 of {len(table)} claims"
    page.reload()
    page.locator(".vtd-ledger-tools select").select_option("chapter")
    chapters = rows.evaluate_all("rows => rows.map(row => row.dataset.chapter)")
    assert chapters == sorted(chapters)


def test_the_ledger_can_be_taken_along(site):
    import pandas as pd

    from vtd import lab

    read = pd.read_csv(site[0] / "assets" / "ledger.csv")
    rows = json.loads((site[0] / "assets" / "ledger.json").read_text())
    assert list(read.claim) == [row["claim"] for row in rows] == list(lab.ledger().claim)
    assert "assets/ledger.csv" in (site[0] / "ledger.html").read_text()


def test_a_map_of_words_changes_with_the_page(site, browser):
    """Its words have the colour of the page's text, in the dark and after a change to light; its buttons stand beside each other."""
    page = browser.new_context(color_scheme="dark").new_page()
    page.goto(f"{site[1]}/some/book/chapters/07_umap.html")
    chart = page.locator(".vtd-live canvas.map")
    chart.scroll_into_view_if_needed()
    grey = """chart => { const p = chart.getContext('2d').getImageData(0, 0, chart.width, chart.height).data, found = [];
        for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 200 && Math.abs(p[i] - p[i + 2]) < 40) found.push(p[i]);
        return found.length ? found.sort((a, b) => a - b)[found.length >> 1] : -1 }"""
    page.wait_for_timeout(500)
    assert chart.evaluate(grey) > 150
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.wait_for_timeout(500)
    assert 0 <= chart.evaluate(grey) < 100
    tops = page.locator(".vtd-live:has(canvas.map) button").evaluate_all("all => all.map(b => Math.round(b.getBoundingClientRect().top))")
    assert len(tops) == 3 and len(set(tops)) == 1


def test_a_grid_says_its_word(site, browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(f"{site[1]}/some/book/lib/00_grids.html")
    drawn = page.locator("div[role=img] > div").filter(has_text="<script>")
    reader = page.locator(".vtd-reader")
    for _ in range(20):  # on a busy machine the script comes after the pointer: it must move again
        page.mouse.move(0, 0)
        drawn.locator("img").hover()
        page.wait_for_timeout(500)
        if reader.is_visible(): break
    reader.wait_for(state="visible")
    assert reader.locator("strong").text_content() == "<script>alert(1)</script>"
    assert reader.locator("li").count() == 3
    keep(page, "reader")
    page.keyboard.press("Escape")
    assert reader.is_hidden()
    page.locator("div[role=img]").filter(has_text="<script>").focus()
    page.keyboard.press("ArrowRight")
    reader.wait_for(state="visible")


def test_the_feed_is_one(site):
    from xml.etree import ElementTree

    atom = "{http://www.w3.org/2005/Atom}"
    entries = ElementTree.parse(site[0] / "assets" / "feed.xml").findall(f"{atom}entry")
    assert len(entries) == (ROOT / "nbs" / "log.md").read_text().count("\n## ")
    anchors = (site[0] / "log.html").read_text()
    assert all(f'id="{entry.find(f"{atom}link").get("href").split("#")[1]}"' in anchors for entry in entries)
    assert 'type="application/atom+xml"' in (site[0] / "chapters" / "02_mode_collapse.html").read_text()


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
