"""The live front page: one graph, one sampler written twice, one source of chance; and what a reader can do with it."""

import gzip
import hashlib
import importlib.util
import json
import math
import os
import shutil
from pathlib import Path

import laboratory
import numpy as np
import pytest
import torch

from vtd import browser, diffusion
from vtd.codes import Codebook
from vtd.diffusion import GridDiffusion, Writing
from vtd.site import _put_live, build
from vtd.text import Vocabulary

ROOT = Path(__file__).resolve().parents[1]
LIVE = ROOT / "nbs" / "assets" / "live"
needs_browser = pytest.mark.skipif(laboratory.BROWSER is None, reason="no browser here: none of " + ", ".join(laboratory.NAMES))


@pytest.fixture(scope="module")
def model():
    return GridDiffusion.load()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A book of the front page alone: its picture, no other chapter. Served below `/some/book/`."""
    top = tmp_path_factory.mktemp("front")
    (top / "nbs/chapters").mkdir(parents=True)
    shutil.copytree(ROOT / "nbs/assets", top / "nbs/assets")
    index = json.loads((ROOT / "nbs/index.ipynb").read_text())
    index["cells"] = index["cells"][:2]  # title and picture; the rest links to the other pages
    (top / "nbs/index.ipynb").write_text(json.dumps(index))
    (ROOT / "_proc/live").mkdir(parents=True, exist_ok=True)
    (top / "_proc").mkdir()
    (top / "_proc/live").symlink_to(ROOT / "_proc/live")  # a graph of this very model and code need not be exported again
    (top / "_quarto.yml").write_text("website: {sidebar: {contents: [index.ipynb]}}")
    before, os.environ["VTD_ROOT"] = os.environ.get("VTD_ROOT"), str(top)
    try: out = build(top / "served" / "some" / "book", quarto=False)
    finally: os.environ.pop("VTD_ROOT") if before is None else os.environ.update(VTD_ROOT=before)
    return out


@pytest.fixture(scope="module")
def host(site):
    with laboratory.served(site.parents[1]) as address: yield address


@pytest.fixture(scope="module")
def chromium():
    with laboratory.chromium() as program: yield program


@pytest.fixture
def visit(chromium, host):
    """Opens the front page; whatever goes wrong on it, or is asked of another host, fails the test."""
    faults, contexts = [], []

    def go(change=None, wait=".vtd-live .tok", **how):
        contexts.append(chromium.new_context(**{"viewport": {"width": 1200, "height": 900}} | how))
        page = contexts[-1].new_page()
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda asked: asked.url.startswith((host, "data:", "blob:")) or faults.append(asked.url))
        if change: page.route("**/model.json", lambda route: route.fulfill(json=change(json.loads(route.fetch().text()))))
        page.goto(f"{host}/some/book/index.html")
        page.wait_for_selector(wait)
        return page
    yield go
    for context in contexts: context.close()
    assert faults == []


def written(page):
    """Presses play and waits for the page that is written; its words."""
    page.locator(".vtd-live .play").click()
    page.wait_for_function("document.querySelector('.vtd-live .status').textContent.includes('of the network')", timeout=30_000)
    return page.eval_on_selector_all(".vtd-live .word", "words => words.map(word => word.value)")


# -- the two files


def test_the_graph_gives_the_logits_of_the_network(model, site):
    import onnxruntime

    session = onnxruntime.InferenceSession(gzip.decompress((site / "assets/live/model.onnx.bin").read_bytes()), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for pages in (1, 5):
        ids = torch.randint(len(model.vocabulary), (pages, model.length), generator=generator)
        levels = -11 + 12 * torch.rand(pages, model.length, generator=generator)
        levels[:, ::5] = math.inf
        cells = diffusion.mix(model.codebook_signal[ids], torch.randn(pages, model.length, 192, generator=generator), levels)
        with torch.no_grad(): ours = model.net(cells, levels)
        theirs = torch.from_numpy(session.run(None, {"cells": cells.numpy(), "log_snr": levels.numpy()})[0])
        assert torch.allclose(theirs, ours, rtol=1e-5, atol=1e-3)
        assert torch.allclose(theirs.softmax(-1), ours.softmax(-1), atol=1e-3)


def test_the_page_is_light_and_the_runtime_is_the_pinned_one(site):
    live = site / "assets" / "live"
    size = sum(file.stat().st_size for file in (site / "index.html", live / "live.js", live / "sampler.js", live / "model.json"))
    assert size < 300_000 and sum(file.stat().st_size for file in live.iterdir()) < 8_000_000
    assert hashlib.sha256((LIVE / "ort.min.js").read_bytes()).hexdigest() == browser.RUNTIME["ort.min.js"]
    assert hashlib.sha256(gzip.decompress((LIVE / "ort.wasm.bin").read_bytes())).hexdigest() == browser.RUNTIME["ort.wasm.bin"]


@pytest.mark.parametrize("change, says", [
    ({"net": {"self_condition": True}}, "conditioned on its own"), ({"net": {"learn_codewords": True}}, "settle it first")])
def test_a_network_that_a_browser_cannot_run_is_refused(tmp_path, change, says):
    other = GridDiffusion(Vocabulary(["<pad>", "a", "b"]), Codebook.binary(3, "2x2x3"), 4, torch.ones(3) / 3, **change)
    with pytest.raises(ValueError, match=says): browser.export(other, tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_onnx_the_page_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _put_live(tmp_path)
    assert json.loads((tmp_path / "model.json").read_text()) == {"missing": "onnx and onnxscript were not installed when it was made"}


# -- the sampler in Python


@pytest.mark.parametrize("clock", browser.CLOCKS)
def test_write_page_is_fill_with_its_chance_given(model, clock, monkeypatch):
    order, overlap = browser.CLOCKS[clock]
    index = model.vocabulary.index
    for seed, first in ((3, -1), (4, index["these"])):
        kept, draws = [first] + [-1] * (model.length - 1), iter(browser.draws_of(seed, 8, model.length))
        monkeypatch.setattr(torch, "randn", lambda *shape, seed=seed, **_: browser.noise_of(seed, *shape[1:])[None])
        monkeypatch.setattr(torch, "multinomial", lambda belief, *_, draws=draws, **__: browser.drawn(belief, next(draws))[:, None])
        filled = model.fill(torch.tensor([kept]), Writing(8, order, overlap, "ddim", 0.5))[0].tolist()
        monkeypatch.undo()
        assert filled == browser.write_page(model, kept, seed=seed, nfe=8, clock=clock)


def test_the_chance_of_a_formula_has_the_right_moments():
    noise, draws = browser.noise_of(2**32 - 1, 100, 192).double(), browser.draws_of(0, 100, 100)
    kurtosis = (noise**4).mean() / noise.square().mean() ** 2
    assert abs(noise.mean()) < 0.03 and abs(noise.var() - 1) < 0.03 and abs(kurtosis - 3) < 0.2
    assert abs(draws.mean() - 0.5) < 0.02 and abs(draws.var() - 1 / 12) < 0.005 and 0 < draws.min() and draws.max() < 1
    assert abs(np.corrcoef(noise.flatten()[:-1], noise.flatten()[1:])[0, 1]) < 0.03


# -- the sampler in the browser


@needs_browser
def test_the_browser_writes_what_python_writes(model, visit):
    kept = [-1, model.vocabulary.index["small"]] + [-1] * (model.length - 2)
    asked = [{"seed": seed, "clock": list(browser.CLOCKS)[seed % 3], "calls": (16, 5, 12)[seed % 3], "kept": kept if seed % 2 else [-1] * model.length}
             for seed in range(20)]
    told = visit().evaluate("""async asked => {
        const live = new URL("assets/live/", location.href), s = await import(new URL("sampler.js", live));
        const told = await (await fetch(new URL("model.json", live))).json(), model = s.unpack(told), denoise = await s.openNetwork(told, live);
        const pages = [], first = [];
        for (const how of asked) {
          pages.push(await s.writePage(model, denoise, {...how, watch: f => { if (f.call === 1) first.push([...f.cells]); }}));
        }
        return {pages, first, signal: [...model.signal], noise: [...s.noiseOf(7, model.length * model.D)]};
    }""", asked)
    assert np.allclose(told["noise"], browser.noise_of(7, model.length, 192).flatten(), atol=1e-6)
    assert np.allclose(told["signal"], model.codebook_signal.flatten(), atol=1e-6)
    for how, page, cells in zip(asked, told["pages"], told["first"], strict=True):
        seen = []
        ours = browser.write_page(model, how["kept"], seed=how["seed"], nfe=how["calls"], clock=how["clock"], callback=lambda k, z, *_, seen=seen: seen.append(z))
        assert page == ours, how
        assert np.allclose(cells, seen[0].flatten(), atol=1e-3), how


@needs_browser
def test_a_reader_fixes_words_plays_and_scrubs_by_keyboard(model, visit):
    page = visit()
    stage, play = page.locator(".vtd-live"), page.locator(".vtd-live .play")
    stage.locator(".clear").click()
    assert set(page.eval_on_selector_all(".vtd-live .word", "words => words.map(word => word.value)")) == {""}
    stage.locator(".word").nth(1).fill("Small ")
    page.keyboard.press("Enter")
    stage.locator("select").select_option("4")
    stage.locator("[value='one by one']").focus()
    page.keyboard.press("Space")
    stage.locator(".seed").fill("11")
    words, ids = written(page), [-1, model.vocabulary.index["small"]] + [-1] * (model.length - 2)
    ours = browser.write_page(model, ids, seed=11, nfe=4, clock="one by one")
    assert words == ["" if i == model.vocabulary.pad else model.vocabulary.tokens[i] for i in ours] and words[1] == "small"
    stage.locator("input[type=range]").focus()
    page.keyboard.press("Home")
    assert stage.locator("output").text_content() == "call 0 of 4" and stage.locator(".word").nth(1).input_value() == "small"
    assert stage.locator(".word").nth(0).input_value() == "" and play.get_attribute("aria-label") == "Play"
    page.keyboard.press("ArrowRight")
    assert stage.locator("input[type=range]").get_attribute("aria-valuetext").startswith("call 1 of 4: ")
    play.focus()
    page.keyboard.press("Space")
    assert play.get_attribute("aria-label") == "Pause"
    page.keyboard.press("Space")
    assert play.get_attribute("aria-label") == "Play"


@needs_browser
def test_with_less_motion_a_page_stands_there_at_once_and_a_click_keeps_a_word(visit):
    page = visit(reduced_motion="reduce")
    page.evaluate("""new MutationObserver(() => document.querySelector(".vtd-live .playing") && (window.moved = 1))
                     .observe(document.querySelector(".vtd-live .live"), {attributes: true})""")
    first, words = page.locator(".vtd-live .grid").first, written(page)
    assert page.evaluate("window.moved") is None and page.locator(".vtd-live output").text_content() == "call 16 of 16"
    first.click()
    assert first.get_attribute("aria-pressed") == "true"
    page.locator(".vtd-live .again").click()
    page.wait_for_function("document.querySelector('.vtd-live .status').textContent.includes('of the network')")
    assert page.locator(".vtd-live .word").first.input_value() == words[0]
    first.click()
    assert first.get_attribute("aria-pressed") == "false"


@needs_browser
def test_an_unknown_word_gets_one_message_and_nothing_runs(visit):
    page = visit()
    word, fault = page.locator(".vtd-live .word").nth(2), page.locator(".vtd-live .fault")
    word.fill("elefant")
    page.locator(".vtd-live .play").click()
    assert "“elefant” is not one of the 202 words" in fault.text_content() and page.locator(".vtd-live .status").text_content() == ""
    assert word.get_attribute("aria-invalid") == "true" and word.evaluate("word => word === document.activeElement")
    word.fill("")
    word.press("Enter")
    assert fault.text_content() == "" and word.get_attribute("aria-invalid") is None


@needs_browser
def test_tokens_are_text(visit):
    nasty = "<img src=x onerror=alert(1)>"

    def renamed(told):
        return told | {"tokens": [nasty if i == told["example"]["ids"][0] else token for i, token in enumerate(told["tokens"])]}
    page = visit(renamed)
    assert page.locator(".vtd-live .word").first.input_value() == nasty and page.locator(".vtd-live img").count() == 0
    assert nasty in page.locator(".vtd-live .status").text_content()


@needs_browser
def test_it_fits_a_telephone_in_the_dark_and_fetches_the_model_only_when_touched(visit):
    page = visit(viewport={"width": 375, "height": 800}, color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert not any("onnx" in name or "ort." in name for name in page.evaluate("performance.getEntriesByType('resource').map(r => r.name)"))
    page.locator(".vtd-live .word").first.fill("an unknown and really quite long word")
    page.keyboard.press("Enter")
    assert page.locator(".vtd-live .fault").text_content() and page.evaluate("document.documentElement.scrollWidth") <= 375
    page.wait_for_function("performance.getEntriesByType('resource').some(r => r.name.includes('model.onnx'))")


@needs_browser
def test_the_picture_stays_without_scripts_and_without_a_model(visit):
    picture = visit(java_script_enabled=False, wait=".vtd-live img").locator(".vtd-live img")
    assert picture.is_visible() and picture.get_attribute("alt")
    page = visit(lambda told: {"missing": "onnx was not installed when it was made"}, wait=".vtd-live .note")
    assert page.locator(".vtd-live img").is_visible()
    assert page.locator(".vtd-live .note").text_content() == \
        "The live model is not built into this copy of the book: onnx was not installed when it was made."
