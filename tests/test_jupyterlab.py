"""The live tools in a real JupyterLab and a real browser, and the same notebook by papermill where nobody watches."""

import json
from pathlib import Path

import pytest

pytest.importorskip("jupyterlab")
pytest.importorskip("anywidget")
import laboratory  # noqa: E402
from laboratory import LIVE, Bench, jupyterlab, wait_until, write_notebook  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "_proc" / "shots"
browser_only = pytest.mark.skipif(laboratory.BROWSER is None, reason="no browser here: none of " + ", ".join(laboratory.NAMES))

IMPORTS = """
import torch
from vtd import widgets
from vtd.codecs import Codec
from vtd.codes import Codebook
from vtd.training import fit
words = ["king", "queen", "<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "שלום עולם", "🙂", "x" * 200, "it's", "</script>", "`${1}`"]
words += [f"word {i}" for i in range(20)]
book = Codebook.binary(30, shape="5x5x3")
"""
WATCH = """
codec = Codec(30, "5x5x3", "gumbel")
live = widgets.LiveTraining(lambda control: fit(codec, torch.arange(30), steps=STEPS, batch=30, control=control, progress=False),
                            shape="5x5x3", words=words, temperature=(0.1, 4.0, 1.0))
live
"""
TOOLS = """
from IPython.display import display
read = lambda grids: (-(grids.flatten(1)[:, None] - book.patterns.flatten(1)).square().sum(-1)).log_softmax(-1)
def write(seed, held):
    if "plum" in held.values(): raise ValueError("there is no token 'plum' <b>here</b>")
    noise = torch.rand(book.patterns[:12].shape, generator=torch.Generator().manual_seed(seed))
    for share in (0.0, 0.3, 0.6, 1.0):
        grids = share * book.patterns[:12] + (1 - share) * noise
        yield widgets.Frame(f"{1 - share:.0%} noise", grids, [held.get(i, words[(v + seed) % 30]) for i, v in enumerate(book.nearest(grids))], [share] * 12)
def mix(picks, share):
    made = share * book.patterns[picks[0]] + (1 - share) * book.patterns[picks[1]]
    return [("mixture", made, words[int(book.nearest(made))])]
display(widgets.GridInspector(words, book.patterns, decode=read), widgets.Denoiser(write, words),
        widgets.Composer(words, book.patterns, {"blend": mix}, slots=("first", "second"), start=(0, 1), amounts={"blend": "share of the first"}),
        widgets.MapExplorer(words, torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), near=[[(i + 1) % 30] for i in range(30)]))
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """One notebook in one JupyterLab; the tests below go through it from top to bottom."""
    api = pytest.importorskip("playwright.sync_api")
    folder = tmp_path_factory.mktemp("lab")
    write_notebook(folder / "live.ipynb", [IMPORTS, WATCH.replace("STEPS", "10**6"), TOOLS])
    with jupyterlab(folder) as address, api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=laboratory.BROWSER, args=laboratory.ARGUMENTS.split())
        found = Bench(browser, address, "live.ipynb")
        found.file = folder / "live.ipynb"
        found.run_cell()
        yield found
        browser.close()


@browser_only
def test_a_run_is_seen_while_it_goes_on(bench):
    """The cell returns, frames keep coming, grids and words are there."""
    bench.run_cell()
    wait_until(lambda: int(bench.told("frames") or 0) >= 5, 30, "no frames come")
    assert bench.told("state") == "training"
    assert bench.page.locator(f"{LIVE} .tok canvas").count() == 30
    painted = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size > 1"
    assert bench.page.locator(f"{LIVE} .tok canvas").first.evaluate(painted)
    wait_until(lambda: bench.step() > 130, 60, "the run does not go on")  # past its warm-up


@browser_only
def test_pause_step_and_learning_rate(bench):
    """A paused run makes no step; one press, one step; and that step has the slider's learning rate."""
    page = bench.page
    bench.button("Pause").click()
    wait_until(lambda: bench.told("state") == "paused", 10, "it does not pause")
    page.wait_for_timeout(400)
    at, rate = bench.step(), float(bench.told("rate"))
    page.wait_for_timeout(600)
    assert bench.step() == at
    slider = page.get_by_label("learning rate")
    slider.focus()
    page.keyboard.press("Home")
    page.wait_for_timeout(300)
    assert float(bench.told("rate")) == rate  # of the last step, which was made before
    bench.button("Step").click()
    wait_until(lambda: bench.step() > at, 10, "it does not step")
    page.wait_for_timeout(300)
    assert bench.step() == at + 1 and float(bench.told("rate")) == pytest.approx(rate / 100, rel=1e-6)
    bench.button("Keep").click()
    page.locator(f"{LIVE} .word").get_by_text(f"step {at + 1:,}", exact=True).wait_for()
    bench.button("Resume").click()
    wait_until(lambda: bench.step() > at + 1, 10, "it does not go on")


@browser_only
def test_stop_ends_the_run(bench):
    bench.button("Stop").click()
    wait_until(lambda: bench.told("state") == "stopped", 10, "it does not stop")
    at = bench.step()
    bench.page.wait_for_timeout(400)
    assert bench.step() == at and bench.button("Stop").is_disabled()


@browser_only
def test_the_tools_answer(bench):
    """By mouse and by keyboard; what goes wrong in a tool's function is told, as text."""
    page = bench.page
    bench.run_cell()
    page.wait_for_function("document.querySelectorAll('.vtd-live').length === 5 && document.querySelectorAll('.vtd-live')[3].querySelector('[aria-live] canvas')")
    inspector, denoiser, composer, map_ = (page.locator(".vtd-live").nth(i) for i in range(1, 5))
    inspector.get_by_role("option").nth(1).click()
    page.keyboard.press("ArrowRight")
    wait_until(lambda: inspector.locator("h4").first.text_content() == words(2), 5, "the arrow key does not choose the next token")
    denoiser.get_by_role("button", name="place 1: king").click()
    denoiser.get_by_text("held").wait_for()
    denoiser.get_by_text("Again").click()
    denoiser.get_by_role("button", name="place 2: <script>").wait_for()  # another page
    denoiser.get_by_role("button", name="place 1: king").wait_for()  # the word that was held
    denoiser.get_by_label("word to hold", exact=True).fill("plum")
    page.keyboard.press("Enter")
    denoiser.get_by_text("there is no token 'plum' <b>here</b>").wait_for()
    denoiser.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    denoiser.get_by_text("40% noise").wait_for()
    before = composer.locator("[aria-live]").inner_text()
    composer.get_by_label("share of the first").focus()
    page.keyboard.press("End")
    wait_until(lambda: composer.locator("[aria-live]").inner_text().endswith("king"), 5, f"the mixture stays {before}")
    map_.get_by_label("find a word").fill("word 7")
    map_.get_by_text("word 7 means most nearly: word 8").wait_for()


def words(i: int) -> str:
    return ["king", "queen", "<script>alert(1)</script>"][i]


@browser_only
def test_hostile_words_are_text_and_nothing_overflows(bench):
    page = bench.page
    assert page.locator(".vtd-live script, .vtd-live img, .vtd-live b").count() == 0
    assert page.locator(".vtd-live").first.get_by_text("<script>alert(1)</script>").count() == 1
    wide = page.evaluate("[...document.querySelectorAll('.vtd-live')].map(e => e.scrollWidth - e.clientWidth)")
    assert max(wide) <= 0
    unlabelled = "[...document.querySelectorAll('.vtd-live :is(input, select, button, canvas[tabindex])')].filter(e => !e.textContent.trim() && !e.getAttribute('aria-label') && !e.labels?.length).length"
    assert page.evaluate(unlabelled) == 0
    bench.shot(SHOTS, "light")
    assert bench.faults == []


@browser_only
def test_the_saved_notebook_holds_no_state(bench):
    bench.save()
    wait_until(lambda: '"execution_count": 3' in bench.file.read_text(), 20, "it is not saved")
    text = bench.file.read_text()
    notebook = json.loads(text)
    assert "widgets" not in notebook["metadata"] and "plotly.js" not in text and len(text) < 15_000
    outputs = [o for c in notebook["cells"] for o in c["outputs"]]
    assert len(outputs) == 5 and all(set(o["data"]) == {"text/plain", "application/vnd.jupyter.widget-view+json"} for o in outputs)


BROKEN = """
def train(control): raise ArithmeticError("the loss became nan at step 7")
widgets.LiveTraining(train)
"""


def test_where_nobody_watches_papermill_leaves_players_and_raises_what_breaks(tmp_path):
    """The same cells, and one whose loop breaks: it stops the notebook, and those before it have left their pages."""
    from vtd import lab

    source = write_notebook(tmp_path / "live.ipynb", [IMPORTS, WATCH.replace("STEPS", "60"), TOOLS, BROKEN])
    with pytest.raises(Exception, match="ArithmeticError: the loss became nan at step 7"): lab.execute(source, tmp_path / "done.ipynb")
    notebook = json.loads((tmp_path / "done.ipynb").read_text())
    run, *tools = ["".join(o["data"]["text/html"]) for c in notebook["cells"] for o in c.get("outputs", []) if "vtd-" in str(o.get("data"))]
    assert "data-vtd-player" in run and "step 60" in run and len(tools) == 4 and all("data-vtd-live" in tool for tool in tools)
    assert sum(map(len, [run, *tools])) < 200_000 and "widget-view" not in (tmp_path / "done.ipynb").read_text()
