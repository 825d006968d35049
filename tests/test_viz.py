"""Laws of figures: every one says what it shows, sure or unsure; words never act; nothing is loaded from elsewhere."""
import json
import re
import shutil

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from vtd.viz import draw_intervals, draw_lines, draw_page, draw_player, show

EVIL = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
CURVE = {"x": [1, 2, 3], "y": [3, 2, 1], "low": [2, 1, 0], "high": [4, 3, 2]}


def frames(steps=5, count=6, shape=(4, 4, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((count, *shape)) for _ in range(steps)]


def captions(steps=5, count=6): return [[f"w{t}.{n}" for n in range(count)] for t in range(steps)]


@pytest.mark.parametrize("make", [lambda alt: draw_lines({"a": CURVE}, x="x", y="y", alt=alt),
                                  lambda alt: draw_intervals([{"name": "a", "value": 1}], x="x", alt=alt),
                                  lambda alt: draw_player(frames(), captions(), alt=alt)])
def test_no_figure_without_alt_text(make):
    for alt in ("", "  "):
        with pytest.raises(ValueError, match="alt text"): make(alt)
    figure = make("what is seen")
    published = show(figure, label="fig-a", caption="A caption.")
    assert published is figure
    meta = figure.layout.meta if isinstance(figure, go.Figure) else figure.meta
    assert meta == {"alt": "what is seen", "label": "fig-a", "caption": "A caption."}
    for bad in ({"label": "a", "caption": "b"}, {"label": "fig-a", "caption": ""}):
        with pytest.raises(ValueError): show(figure, **bad)


def test_a_notebook_stores_the_figure_as_json_only():
    figure = draw_lines({"a": CURVE, "b": CURVE}, x="x", y="y", alt="two curves", reference={"limit": 2})
    renderer = pio.renderers[pio.renderers.default]
    bundle = renderer.to_mimebundle(figure.to_dict())
    assert list(bundle) == ["application/vnd.plotly.v1+json"]
    text = json.dumps(bundle)
    assert len(text) < 10_000 and "http" not in text and "<script" not in text


def test_a_band_is_its_interval():
    band, line = draw_lines({"a": CURVE}, x="x", y="y", alt="a curve").data
    assert list(line.y) == CURVE["y"] and list(band.x) == [1, 2, 3, 3, 2, 1] and list(band.y) == [4, 3, 2, 0, 1, 2]


def test_curves_differ_by_more_than_colour():
    lines = draw_lines({str(i): {"x": [0], "y": [i]} for i in range(8)}, x="x", y="y", alt="eight curves").data
    assert len({line.marker.symbol for line in lines}) == len({line.line.color for line in lines}) == 8


def test_an_interval_reaches_from_low_to_high():
    rows = [{"name": "a", "value": 2, "low": 1.5, "high": 4}, {"name": "b", "value": 3}]
    first, second = draw_intervals(rows, x="x", alt="two dots", reference={"chance": 1}).data
    assert (first.error_x.arrayminus, first.error_x.array) == ((0.5,), (2.0,)) and second.error_x.array == (0,)
    figure = draw_intervals(rows, x="x", alt="two dots")
    assert [a.text for a in figure.layout.annotations] == ["a", "2 [1.5, 4]", "b", "3"]


@pytest.mark.parametrize("data", [{"x": [1]}, {"x": [1], "y": [1, 2]}, {"x": [1], "y": [1], "low": [0]},
                                  {"x": [1], "y": [1], "hihg": [2]}])
def test_a_curve_that_does_not_fit_is_refused(data):
    with pytest.raises(ValueError): draw_lines({"a": data}, x="x", y="y", alt="a curve")


def test_names_are_text_in_plotly_too():
    name = '<a href="http://example.org">x</a>'
    figure = draw_intervals([{"name": name, "value": 1, "group": name}], x=name, title=name, alt="one dot")
    drawn = figure.to_dict()
    drawn["layout"].pop("template")
    assert "<a href" not in json.dumps(drawn)


def test_a_page_shows_its_words():
    assert draw_page(frames()[0], captions()[0]).words == captions()[0]


@pytest.mark.parametrize("change", [{"captions": captions(4)}, {"captions": captions(5, 5)}, {"levels": [[1] * 6] * 4},
                                    {"levels": [[np.nan] * 6] * 5},
                                    {"frames": []}, {"frames": [*frames(4), *frames(1, shape=(4, 5, 3))]},
                                    {"frames": [np.full((6, 4, 4, 3), 2.0)] * 5}, {"labels": ["one"]}])
def test_a_player_whose_parts_do_not_fit_is_refused(change):
    with pytest.raises(ValueError): draw_player(**{"frames": frames(), "captions": captions(), "alt": "a", **change})


def test_a_player_is_small_deterministic_and_its_own():
    def make(seed): return draw_player(frames(30, 12, (8, 8, 3), seed), captions(30, 12), alt="noise")._repr_html_()
    assert make(0) == make(0) and len(make(0)) < 100_000
    ids = [set(re.findall(r' id="([^"]+)"', make(seed))) for seed in (0, 1)]
    assert len(ids[0]) == len(ids[1]) == 1 and not ids[0] & ids[1]


def test_nothing_is_loaded_from_elsewhere_and_no_word_ends_the_script():
    text = draw_player(frames(), [[EVIL] * 6] * 5, alt=EVIL, labels=[EVIL] * 5)._repr_html_()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert text.count("<script") == text.count("</script") == 1 and "<img src=x" not in text


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_the_player_plays(tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    levels = [[t / 4] * 6 for t in range(5)]
    words = [*captions()[:4], [EVIL] * 6]
    draw_player(frames(), words, levels, alt="noise", seconds=0.5).save(tmp_path / "player.html")
    with sync.sync_playwright() as driver:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        still = browser.new_context(reduced_motion="reduce", viewport={"width": 400, "height": 700}).new_page()
        problems, requests = [], []
        still.on("pageerror", lambda error: problems.append(str(error)))
        still.on("request", lambda r: requests.append(r.url))
        still.goto((tmp_path / "player.html").as_uri())
        word, slider = still.locator(".word").first, still.locator("input")
        still.wait_for_timeout(300)
        assert word.text_content() == EVIL and slider.input_value() == "4"  # the last frame, standing still
        assert still.evaluate("document.documentElement.scrollWidth") <= 400
        still.locator("figure").focus()
        still.keyboard.press("ArrowLeft")
        assert word.text_content() == "w3.0" and slider.input_value() == "3"
        assert "w3.0" in slider.get_attribute("aria-valuetext")
        still.keyboard.press("Home")
        assert word.text_content() == "w0.0" and still.locator(".known i").first.evaluate("e => e.style.width") == "0%"
        expected = (np.rint(np.rint(frames()[0][0] * 255) / 17) * 17).astype(int)
        pixels = still.evaluate("[...document.querySelector('canvas').getContext('2d').getImageData(0,0,4,4).data]")
        assert (np.array(pixels).reshape(4, 4, 4)[..., :3] == expected).all()
        still.keyboard.press("Space")
        still.wait_for_function("document.querySelector('input').value == '4'")
        assert not still.evaluate("window.hacked") and not problems
        assert all(url.startswith(("file:", "data:")) for url in requests)
        moving = browser.new_context(reduced_motion="no-preference").new_page()
        moving.goto((tmp_path / "player.html").as_uri())
        moving.wait_for_function("document.querySelector('input').value == '1'")  # it has started by itself
        browser.close()
