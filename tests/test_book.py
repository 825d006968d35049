"""The book: one table of contents, pages that fetch nothing, formulas that every reader sees."""

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from vtd import book, lab, pages, site

ROOT = Path(__file__).resolve().parents[1]


def test_every_notebook_is_in_the_table_of_contents_once():
    found = [page for _, each in pages.contents(ROOT) for page in each]
    assert len(found) == len(set(found)) and {"index.ipynb", "ledger.ipynb", "log.md"} <= set(found)


@pytest.fixture
def small(tmp_path, monkeypatch):
    """The front matter of the book with two pages of the bench and no chapter."""
    (tmp_path / "nbs/lib").mkdir(parents=True)
    (tmp_path / "nbs/chapters").mkdir()
    shutil.copytree(ROOT / "nbs/assets", tmp_path / "nbs/assets")
    cells = [
        ("# Front\n\nsee [a](lib/00_a.ipynb)", "markdown"),
        ("#| hide\nsecret = 1", "code"),
        ("#| export\nx = 1", "code"),
    ]
    made = [{"cell_type": kind, "id": f"c{i}", "metadata": {}, "source": text} | ({} if kind == "markdown" else {
        "outputs": [], "execution_count": None}) for i, (text, kind) in enumerate(cells)]  # fmt: skip
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    page = {"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs/index.ipynb").write_text(json.dumps(page))
    made[0]["source"] = "# A page\n\nwith $\\frac{1}{2}$ and\n\n$$ \\sum_i x_i $$"
    (tmp_path / "nbs/lib/00_a.ipynb").write_text(json.dumps(page))
    (tmp_path / "_quarto.yml").write_text("website: {sidebar: {contents: [index.ipynb, {auto: 'lib/*.ipynb'}]}}")
    monkeypatch.setenv("VTD_ROOT", str(tmp_path))
    return tmp_path


def test_a_site_is_made_whole_and_fetches_nothing(small):
    out = site.build(quarto=False)
    front, page = (out / "index.html").read_text(), (out / "lib/00_a.html").read_text()
    assert 'href="lib/00_a.html"' in front and "secret" not in front and "#| export" not in front
    assert page.count("<math") == 2 and not re.search(r"<script[^>]*mathjax", page, re.IGNORECASE)
    assert (out / "searchindex.js").is_file() and (out / "assets/plotly.min.js").is_file()
    site.check_site(out)


def test_a_second_build_waits_for_the_first(small, monkeypatch):
    """Both would write in the same folders."""
    made = []
    monkeypatch.setattr(site, "_build", lambda *args: made.append(args[1]))
    (lab.root() / "_proc").mkdir()
    with ThreadPoolExecutor(1) as pool:
        with FileLock(lab.root() / "_proc" / ".lock"):
            second = pool.submit(site.build, "other", False)
            with pytest.raises(TimeoutError): second.result(timeout=0.5)
            assert not made
        second.result(timeout=30)
    assert made == [lab.root() / "other"]


def test_a_dead_link_stops_the_build_and_leaves_the_old_site(small):
    (small / "_docs").mkdir()
    (small / "_docs/old.html").write_text("old")
    index = small / "nbs/index.ipynb"
    index.write_text(index.read_text().replace("lib/00_a.ipynb", "lib/01_b.html"))
    with pytest.raises((ValueError, lab.RunError)):
        site.build(quarto=False)
    assert (small / "_docs/old.html").read_text() == "old"


def test_tokens_are_text_on_a_page():
    nasty = "</script><script>alert(1)</script>"
    figure = {"data": [{"text": [nasty]}], "layout": {"meta": {"alt": nasty, "caption": nasty, "label": "fig-x"}}}
    made = pages.figure_html(figure, "x", 1)
    assert made.count("<script") == 1 and made.count("</script>") == 1
    read = json.loads(re.search(r'json">(.*?)</script>', made)[1])
    assert read["data"] == figure["data"]


def test_a_page_says_the_look_of_its_figures_once():
    look, other = {"layout": {"height": 380, "width": 0.1234567}}, {"layout": {"height": 1}}
    cells = [{"cell_type": "code", "id": str(i), "source": "draw()", "metadata": {}, "outputs": [{"output_type": "execute_result", "metadata": {}, "data": {pages.PLOTLY:
             {"data": [{"y": [1 / 3]}], "layout": {"template": template, "meta": {"label": f"fig-{i}"}}}}}]} for i, template in enumerate((look, other, look, look))]
    made = "".join(str(out["data"]["text/html"]) for cell in pages.reader_cells(cells, "chapters/x.ipynb") for out in cell["outputs"])
    told = [json.loads(script)["layout"]["template"] for script in re.findall(r'json">(.*?)</script>', made)]
    assert told == [{"layout": {"height": 380, "width": 0.123457}}, other, "fig-0", "fig-0"]


@pytest.mark.parametrize("page", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_every_formula_of_the_book_becomes_mathml(page):
    for cell in json.loads(page.read_text())["cells"]:
        if cell["cell_type"] == "markdown":
            text = re.sub(r"`[^`]*`", "", re.sub(r"```.*?```", "", "".join(cell["source"]), flags=re.DOTALL))
            for block, inline in re.findall(
                r"\$\$(.+?)\$\$|(?<![\\$])\$(?!\s)([^$\n]+?)(?<![\s\\])\$(?!\d)", text, re.DOTALL
            ):
                assert site.mathml((block or inline).strip()).startswith("<math")


@pytest.mark.parametrize("page", sorted((ROOT / "nbs").rglob("*.ipynb")), ids=lambda p: p.stem)
def test_every_notebook_is_light(page):
    raw = page.read_text()
    assert len(raw.encode()) < 300_000
    for cell in json.loads(raw)["cells"]:
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", cell["source"]
            assert not any("widget" in mime for mime in output.get("data", {}))
            assert not re.search(r"/(home|root|tmp|Users)/\w", json.dumps(output))
            assert "cdn." not in json.dumps(output.get("data", {}).get("text/html", ""))


def test_readme_is_made_from_the_front_page():
    assert (ROOT / "README.md").read_text() == book.readme()
    for path in re.findall(r"(?:\]\(|src=\"|href=\")(?!https?:|#)([^)\"]+)", book.readme()):
        assert (ROOT / path).exists(), path


def test_a_wrong_word_is_exit_2_and_quarto_that_is_missing_is_said(monkeypatch):
    done = subprocess.run([sys.executable, "-m", "vtd.book", "sites"], capture_output=True, text=True)
    assert done.returncode == 2 and "usage" in done.stderr
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="quarto is not installed"):
        site.build(quarto=True)
