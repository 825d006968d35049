"""Laws of figures: every one says what it shows, sure or unsure; words never act; nothing is loaded from elsewhere."""
import json
import re
import shutil
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from vtd import player, viz
from vtd.viz import (
    bin_association,
    draw_association,
    draw_gradient_flow,
    draw_gradient_steps,
    draw_information,
    draw_intervals,
    draw_landscape,
    draw_lines,
    draw_loss_line,
    draw_page,
    draw_player,
    draw_vocabulary,
    show,
)

EVIL = '</script><script>window.hacked=1</script><img src=x onerror="window.hacked=1">'
CURVE = {"x": [1, 2, 3], "y": [3, 2, 1], "low": [2, 1, 0], "high": [4, 3, 2]}
LAYERS = ["embedding", "grid", "decoder"]


def rows(*gradients, layers=LAYERS):
    return [{"layer": name, "gradient": g, "weight": 2.0} for name, g in zip(layers, gradients, strict=True)]


FLOW = {"sampled": rows(0, 0, 0.5), "continuous": rows(1e-4, 0.02, 0.5)}
POINTS = {"ours": {"x": [1.0, 4.0], "y": [0.1, 0.9], "low": [0.05, 0.8], "high": [0.2, 0.95], "x_low": [0.5, 3.0],
                   "x_high": [1.5, 5.0], "names": ["a", "b"]}, "the notes": {"x": [0.2], "y": [0.0455]}}
SIZES = {"standardised": {"x": [5, 192], "y": [20, 40], "low": [15, 30], "high": [25, 60]},
         "raw": {"x": [5, 192, 1000], "y": [60, 400, None]}, "descent": {"x": [5, 192], "y": [None, None]}}
FIGURES = {  # each figure of part 1, with data that fit
    "flow": lambda alt, **more: draw_gradient_flow(FLOW, alt=alt, **more),
    "steps": lambda alt, **more: draw_gradient_steps({0: FLOW, 10: FLOW}, alt=alt, **more),
    "association": lambda alt, **more: draw_association(np.eye(3), ["a", "b", "c"], alt=alt, **more),
    "landscape": lambda alt, **more: draw_landscape([0, 1], [0, 1, 2], np.ones((3, 2)), alt=alt, **more),
    "loss line": lambda alt, **more: draw_loss_line({"a": CURVE}, alt=alt, **more),
    "information": lambda alt, **more: draw_information(POINTS, {"x": [0, 6], "y": [0, 1]}, entropy=6, alt=alt, **more),
    "vocabulary": lambda alt, **more: draw_vocabulary(SIZES, {"x": [51], "y": [None]}, alt=alt, **more),
}


def frames(steps=5, count=6, shape=(4, 4, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [rng.random((count, *shape)) for _ in range(steps)]


def captions(steps=5, count=6): return [[f"w{t}.{n}" for n in range(count)] for t in range(steps)]


@pytest.mark.parametrize("make", [lambda alt: draw_lines({"a": CURVE}, x="x", y="y", alt=alt),
                                  lambda alt: draw_intervals([{"name": "a", "value": 1}], x="x", alt=alt),
                                  lambda alt: draw_player(frames(), captions(), alt=alt), *FIGURES.values()])
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


def test_one_door_to_all_pictures():
    for name in ("Player", "draw_page", "draw_player"):
        assert getattr(viz, name) is getattr(player, name) and name in viz.__all__


def test_a_label_of_a_level_stands_at_its_level():
    figure = draw_lines({"a": {"x": [1, 2], "y": [1, 100]}}, x="x", y="y", alt="a curve", log_y=True, reference={"ten": 10})
    assert figure.layout.annotations[0].y == 1 and figure.layout.shapes[0].y0 == 10  # plotly: a label's place is a logarithm


def flow_of(traces):
    """What a gradient figure shows, {codec: sizes}: 0 where the mark says that there is nothing."""
    return {line.name: [0 if x is None else x for x in line.x] for line in traces[::2]}


def test_gradients_drawn_are_the_gradients_given_and_none_is_dropped():
    figure = draw_gradient_flow(FLOW, alt="two codecs")
    assert flow_of(figure.data) == {name: [row["gradient"] for row in flow] for name, flow in FLOW.items()}
    line, marks = figure.data[:2]
    left, right = figure.layout.xaxis.range
    assert [x is None for x in line.x] == [True, True, False] == [x is not None for x in marks.x]
    assert all(left < np.log10(x) < -4 for x in marks.x[:2])  # in the picture, and left of the smallest gradient
    assert list(marks.text) == ["no gradient", "no gradient", ""] and marks.marker.symbol.endswith("-open")
    assert all(x is None for x in figure.data[3].x) and not any(figure.data[3].text)
    assert "no gradient, weights 2" in marks.hovertext[0]
    assert [a.text for a in figure.layout.annotations] == LAYERS and len(figure.layout.shapes) == 1
    assert not draw_gradient_flow(FLOW["continuous"], alt="one codec").layout.shapes  # no strip without a zero
    assert draw_gradient_flow(rows(0, 0, 0), alt="nothing at all").data[1].text == ("no gradient",) * 3


def test_gradient_steps_share_one_axis_and_survive_the_page():
    flows = {step: {"a": rows(0 if step < 2 else 10.0**-step, 0.1, 1)} for step in range(5)}
    figure = draw_gradient_steps(flows, alt="five steps")
    assert [frame.name for frame in figure.frames] == ["0", "1", "2", "3", "4"]
    for frame, flow in zip(figure.frames, flows.values(), strict=True):
        assert flow_of(frame.data) == {"a": [row["gradient"] for row in flow["a"]]}
    left, right = figure.layout.xaxis.range
    assert left < -4 and right >= 0 and flow_of(figure.data) == flow_of(figure.frames[-1].data)
    assert [list(s.args[0]) for s in figure.layout.sliders[0].steps] == [[frame.name] for frame in figure.frames]
    from vtd.pages import figure_html
    html = figure_html(json.loads(figure.to_json()), "x", 1)
    kept = json.loads(re.search(r'<script type="application/json">(.*?)</script>', html).group(1))
    assert len(kept["frames"]) == 5 and kept["frames"][3]["data"][0]["x"][0] == 1e-3


def test_an_association_is_drawn_as_it_is_or_in_bins_that_are_still_distributions():
    rng = np.random.default_rng(0)
    small, large = rng.dirichlet(np.ones(5), 5), rng.dirichlet(np.full(1001, 0.01), 1001)
    assert np.allclose(draw_association(small, alt="a").data[0].z, small, rtol=6e-3)
    binned, starts = bin_association(large)
    assert len(binned) <= 64 and np.allclose(binned.sum(1), 1)
    edges = [*starts, 1001]
    assert np.isclose(binned[2, 3], large[edges[2]:edges[3], edges[3]:edges[4]].sum(1).mean())
    figure = draw_association(large, [f"<b>{i}</b>" * 9 for i in range(1001)], alt="many tokens")
    assert len(figure.to_json()) < 60_000 and "16 tokens a cell" in figure.layout.xaxis.title.text
    names = draw_association(np.eye(3), ["same", "same", " "], alt="three tokens").data[0].x
    assert len(set(names)) == 3  # a category axis would lay two tokens of one name over each other


def test_a_landscape_holds_its_losses_and_marks_the_solution():
    xs, ys = [0, 1, 2], [0, 1]
    even, steep = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[0.01, 1, 10], [0.1, 100, 1]])
    line = {"x": [2, 1], "y": [1, 0]}
    figure = draw_landscape(xs, ys, even, line=line, solution=(1, 0), alt="a")
    contour, way, star = figure.data
    assert np.array_equal(contour.z, even) and (list(contour.x), list(contour.y)) == (xs, ys)
    assert (list(way.x), list(way.y)) == (line["x"], line["y"])
    assert (star.x, star.y, star.marker.symbol, star.name) == ((1,), (0,), "star", "solution")
    steep_figure = draw_landscape(xs, ys, steep, alt="a")
    assert np.allclose(10 ** np.array(steep_figure.data[0].z), steep, rtol=1e-3)
    assert steep_figure.data[0].colorbar.ticktext[0] == "10<sup>-2</sup>"
    big = draw_landscape(range(25), range(25), np.random.default_rng(0).random((25, 25)), alt="a")
    assert len(big.to_json()) < 60_000


def test_a_loss_line_names_both_ends():
    data = {"x": [0, 0.5, 1], "y": [100, 10, 0.1]}
    figure = draw_loss_line({"a": data, "b": {"x": [0, 1], "y": [5, 4]}}, alt="two ways")
    assert list(figure.data[0].y) == data["y"] and figure.layout.yaxis.type == "log"
    assert [(a.text, a.x) for a in figure.layout.annotations] == [("init", 0), ("solution", 1)]
    assert draw_loss_line({"b": {"x": [0, 1], "y": [5, 0]}}, alt="one way").layout.yaxis.type is None


def test_information_shows_points_with_both_intervals_beside_the_limit():
    curve, ours, notes = FIGURES["information"]("points").data
    assert (list(curve.x), list(curve.y)) == ([0, 6], [0, 1]) and notes.error_x.array is None
    assert (list(ours.x), list(ours.y)) == ([1, 4], [0.1, 0.9])
    assert np.allclose(ours.error_x.arrayminus, [0.5, 1]) and np.allclose(ours.error_x.array, [0.5, 1])
    assert np.allclose(ours.error_y.arrayminus, [0.05, 0.1]) and np.allclose(ours.error_y.array, [0.1, 0.05])
    assert ours.marker.symbol != notes.marker.symbol and ours.hovertext == ("a: ", "b: ")
    assert "H(T) = 6" in FIGURES["information"]("points").layout.annotations[0].text


def test_a_run_that_never_arrived_is_an_open_mark_above_all_others():
    figure = FIGURES["vocabulary"]("sizes")
    reached = [trace for trace in figure.data if not trace.marker.symbol.endswith("-open")]
    lost = [trace for trace in figure.data if trace.marker.symbol.endswith("-open")]
    assert {t.name: list(zip(t.x, t.y, strict=True)) for t in reached} == {"standardised": [(5, 20), (192, 40)],
                                                                            "raw": [(5, 60), (192, 400)]}
    assert {t.name: list(t.x) for t in lost if t.x} == {"raw": [1000], "descent": [5, 192], "the notes": [51]}
    assert min(y for t in lost for y in t.y) > 400 and {t.name for t in lost if t.showlegend} == {"descent", "the notes"}
    assert [a.text for a in figure.layout.annotations] == ["not reached"]
    assert (figure.layout.xaxis.type, figure.layout.yaxis.type) == ("log", "log")
    all_there = draw_vocabulary({"a": SIZES["standardised"]}, alt="all there")
    assert not all_there.layout.annotations and len(all_there.data) == 1


@pytest.mark.parametrize("make", [
    lambda: draw_gradient_flow([], alt="a"), lambda: draw_gradient_flow({"a": []}, alt="a"),
    lambda: draw_gradient_flow([{"layer": "a"}], alt="a"), lambda: draw_gradient_flow(rows(1, np.nan, 1), alt="a"),
    lambda: draw_gradient_flow(rows(1, -1, 1), alt="a"), lambda: draw_gradient_flow(rows(1, np.inf, 1), alt="a"),
    lambda: draw_gradient_flow({"a": rows(1, 1, 1), "b": rows(1, 1, 1, layers=["x", "y", "z"])}, alt="a"),
    lambda: draw_gradient_steps({}, alt="a"),
    lambda: draw_gradient_steps({0: FLOW, 1: {"sampled": FLOW["sampled"]}}, alt="a"),
    lambda: draw_association(np.ones((2, 3)), alt="a"), lambda: draw_association(np.ones((2, 2)), alt="a"),
    lambda: draw_association(np.array([[2.0, -1], [0, 1]]), alt="a"), lambda: draw_association(np.eye(0), alt="a"),
    lambda: draw_association(np.eye(2) * np.nan, alt="a"), lambda: draw_association(np.eye(2), ["a"], alt="a"),
    lambda: draw_landscape([0, 1], [0, 1, 2], np.ones((2, 3)), alt="a"),
    lambda: draw_landscape([0, 1], [0, 1], [[1, 2], [3, np.nan]], alt="a"),
    lambda: draw_landscape([0, 1], [0, 1], np.ones((2, 2)), line={"x": [1]}, alt="a"),
    lambda: draw_loss_line({}, alt="a"), lambda: draw_loss_line({"a": {"x": [0, 1], "y": [1]}}, alt="a"),
    lambda: draw_information({}, alt="a"), lambda: draw_information({"a": {"x": [1], "y": [1.2]}}, alt="a"),
    lambda: draw_information({"a": {"x": [-1], "y": [0.2]}}, alt="a"),
    lambda: draw_information({"a": {"x": [1], "y": [0.2], "x_low": [0]}}, alt="a"),
    lambda: draw_information({"a": {"x": [1], "y": [0.2], "names": ["b", "c"]}}, alt="a"),
    lambda: draw_information({"a": {"x": [1], "y": [0.2], "hihg": [1]}}, alt="a"),
    lambda: draw_vocabulary({}, alt="a"), lambda: draw_vocabulary({"a": {"x": [0], "y": [1]}}, alt="a"),
    lambda: draw_vocabulary({"a": {"x": [None], "y": [1]}}, alt="a"),
    lambda: draw_vocabulary({"a": {"x": [5], "y": [0]}}, alt="a")])
def test_data_that_do_not_fit_a_figure_are_refused(make):
    with pytest.raises(ValueError): make()


def test_no_token_and_no_name_acts_in_a_figure():
    flow = {EVIL: rows(0, 1, 1, layers=[EVIL, "b", "c"])}
    points = {EVIL: {"x": [1], "y": [0.5], "names": [EVIL]}}
    made = [draw_gradient_steps({EVIL: flow}, alt=EVIL, title=EVIL), draw_association(np.eye(2), [EVIL, "b"], alt=EVIL),
            draw_loss_line({EVIL: CURVE}, alt=EVIL), draw_information(points, alt=EVIL),
            draw_vocabulary({EVIL: {"x": [1, 2], "y": [1, None]}}, y=EVIL, alt=EVIL)]
    for figure in made:
        drawn = json.loads(figure.to_json())
        drawn["layout"].pop("template"), drawn["layout"].pop("meta")
        for frame in drawn.get("frames", []): frame.pop("name")  # never drawn by plotly; the page writes it as text
        for slider in drawn["layout"].get("sliders", []):
            for step in slider["steps"]: step.pop("args")
        assert "<script" not in json.dumps(drawn) and "<img" not in json.dumps(drawn)


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
    draw_player(frames(), words, levels, alt="noise", seconds=4.0).save(tmp_path / "player.html")
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
        moving.wait_for_function("document.querySelector('input').value == '1'")  # it has started by itself; each frame stays long enough to be seen on a busy machine
        browser.close()


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_the_steps_of_a_figure_answer_to_the_keyboard(tmp_path):
    sync = pytest.importorskip("playwright.sync_api")
    from importlib.resources import files

    from vtd.pages import figure_html
    flows = {step: {"a": rows(10.0**-step, 0.1, 1)} for step in range(4)}
    figure = draw_gradient_steps(flows, alt="four steps")
    assets = Path(__file__).resolve().parents[1] / "nbs" / "assets"
    for name in ("book.js", "styles.css"): shutil.copy(assets / name, tmp_path)
    shutil.copy(files("plotly") / "package_data" / "plotly.min.js", tmp_path)
    (tmp_path / "page.html").write_text(
        '<!doctype html><html data-theme="light"><meta charset="utf-8"><body>'
        + figure_html(json.loads(figure.to_json()), "x", 1) + '<script src="book.js"></script>')
    first = "document.querySelector('.vtd-plot').data[0].x[0]"
    with sync.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page, problems = browser.new_page(viewport={"width": 375, "height": 700}), []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.wait_for_function("document.querySelector('.vtd-plot').dataset.drawn")
        slider = page.locator(".vtd-steps input")
        assert (slider.input_value(), page.evaluate(first)) == ("3", 1e-3) and not page.locator(".slider-group").count()
        page.keyboard.press("Tab")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"{first} == 0.1")
        assert slider.get_attribute("aria-valuetext") == page.locator(".vtd-steps output").text_content() == "step 1"
        page.evaluate("document.documentElement.dataset.theme = 'dark'")  # other colours, the same step
        page.wait_for_function("document.querySelector('.vtd-plot').layout.font.color == '#dfe4ea'")
        assert page.evaluate(first) == 0.1 and page.locator(".vtd-steps").count() == 1 and not problems
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        browser.close()
