"""The live tools without a browser: what they answer, what they leave, and what a run does when it is held, slowed and stopped."""

import ast
import json
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("anywidget")
from vtd import live, scripts, stage, widgets  # noqa: E402
from vtd.codecs import Codec  # noqa: E402
from vtd.training import Control, Snapshot, TrainingError, fit  # noqa: E402

HOSTILE = ["<script>alert(1)</script>", "</script>", '"><img src=x onerror=alert(2)>', "it's \"quoted\"", "שלום", "🙂", "x" * 200, "\u2028", "", "a\nb"]
GRIDS = np.random.default_rng(0).random((len(HOSTILE), 4, 5, 3))


@pytest.fixture
def nobody(monkeypatch): monkeypatch.setenv("VTD_HEADLESS", "1")


@pytest.fixture
def somebody(monkeypatch): monkeypatch.delenv("VTD_HEADLESS", raising=False)


class Slow(nn.Module):
    """A step takes five milliseconds; it notes the temperature it is told."""

    def __init__(self):
        super().__init__()
        self.w, self.heat, self.heats, self.thread = nn.Parameter(torch.ones(2)), None, [], None

    def set_temperature(self, temperature): self.heat = temperature

    def loss(self, batch, generator):
        time.sleep(0.005)
        self.heats.append(self.heat)
        self.thread = threading.current_thread()
        return (self.w - batch.mean()).square().sum()

    def metrics(self): return {"w": float(self.w.detach().mean())}


def soon(true, seconds=10.0):
    """Waits until `true()`; fails after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)


def watch(model, steps=10**6, **options):
    return widgets.LiveTraining(lambda control: fit(model, torch.zeros(50), steps=steps, control=control, progress=False), **options)


def press(tool, what, value=0): tool.widget._handle_custom_msg({"what": what, "value": value}, [])


def shown(tool) -> str: return tool._repr_mimebundle_()["text/html"]


def embedded(page: str) -> dict:
    """The data in a page's script, as the script reads them."""
    return json.loads(re.search(r"\}\)\((\{.*\})\)</script>", page, re.S)[1])


# --- the control, in the loop


def test_a_control_that_nobody_touches_changes_nothing():
    ends = []
    for control in (None, Control(lambda snapshot: None, frames=7)):
        codec = Codec(20, "3x4x3", "gumbel")
        fit(codec, torch.arange(20), steps=40, progress=False, control=control)
        ends.append(codec.state_dict())
    assert all(torch.equal(ends[0][k], ends[1][k]) for k in ends[0])


def test_the_rate_is_that_of_the_next_step_and_the_update_follows_it():
    moves, seen = {}, []

    class Noted(Slow):
        def loss(self, batch, generator):
            moves[len(moves)] = self.w.detach().clone()
            return self.w.sum() + 0 * batch.sum()  # a gradient of 1, always

    control = Control(lambda s: (seen.append(s), setattr(control, "rate", 0.25) if s.step == 3 else None), frames=6)
    fit(Noted(), torch.zeros(50), steps=6, lr=0.1, optimiser="sgd", control=control, progress=False)
    rates = {s.step: s.rate for s in seen}
    steps = [float((moves[i] - moves[i + 1])[0]) for i in range(5)]
    assert steps == pytest.approx([rates[i + 1] for i in range(5)], rel=1e-4)
    from vtd.training import learning_rate
    assert rates[3] == pytest.approx(0.1 * learning_rate(2, 6)) and rates[4] == pytest.approx(0.025 * learning_rate(3, 6))


def test_temperature_reaches_the_model_and_a_model_without_one_says_so():
    model, control = Slow(), Control()
    control.temperature = 0.3
    fit(model, torch.zeros(9), steps=2, control=control, progress=False)
    assert model.heats == [0.3, 0.3]
    codec = Codec(6, "3x3x3", "gumbel")
    fit(codec, torch.arange(6), steps=2, control=control, progress=False)
    assert codec.heat == 0.3
    with pytest.raises(TrainingError, match="no temperature to set"): fit(nn.Linear(1, 1), torch.zeros(9), steps=2, control=control, progress=False)


def test_frames_are_spread_evenly_and_the_last_is_the_end():
    seen = []
    fit(Slow(), torch.zeros(9), steps=40, control=Control(seen.append, frames=8), progress=False)
    assert [s.step for s in seen] == [1, 5, 10, 15, 20, 25, 30, 35, 40]


def test_a_stop_in_a_pause_makes_no_further_step_and_saves(tmp_path):
    model, control = Slow(), Control()
    control.pause()
    threading.Timer(0.1, control.stop).start()
    history = fit(model, torch.zeros(9), steps=5, control=control, checkpoint=tmp_path / "run", progress=False)
    assert model.heats == [] and not history.finished and (tmp_path / "run").exists()


def test_a_pause_is_not_counted_as_time():
    control = Control()
    control.pause()
    threading.Timer(1.0, control.resume).start()
    begun = time.monotonic()
    history = fit(Slow(), torch.zeros(9), steps=3, control=control, progress=False)
    assert time.monotonic() - begun > 1 and history.seconds < 0.9


def test_silly_controls_are_refused():
    for wrong in ({"hz": 0}, {"frames": 0}):
        with pytest.raises(ValueError, match="hz is above 0 and frames 1 or more"): Control(**wrong)


# --- a run in a thread


def test_the_call_returns_and_pause_step_resume_stop_do_what_they_say(somebody):
    model = Slow()
    tool = watch(model)
    soon(lambda: len(model.heats) > 3)
    assert model.thread is not threading.main_thread()
    press(tool, "paused", True)
    soon(lambda: tool.widget.news["state"] == "paused")
    time.sleep(0.05)  # the step that was under way
    at = len(model.heats)
    time.sleep(0.2)
    assert len(model.heats) == at
    press(tool, "step")
    soon(lambda: len(model.heats) == at + 1)
    soon(lambda: tool.widget.news["step"] == at + 1)  # and it is shown
    time.sleep(0.1)
    assert len(model.heats) == at + 1
    press(tool, "keep")
    assert [s.step for s in tool.kept] == [at + 1]
    press(tool, "paused", False)
    soon(lambda: len(model.heats) > at + 5)
    press(tool, "stop")
    assert not tool.wait(5).finished
    soon(lambda: tool.widget.news["state"] == "stopped")


def test_sliders_set_flags_and_the_news_tell_the_rate(somebody):
    model = Slow()
    tool = watch(model, temperature=(0.1, 2.0, 1.0))
    soon(lambda: (tool.widget.news["step"] or 0) > 110)  # past the warm-up
    before = tool.widget.news["rate"]
    press(tool, "rate", 0.5)
    press(tool, "temperature", 0.7)
    soon(lambda: tool.widget.news["rate"] == pytest.approx(before / 2))
    soon(lambda: model.heats[-1] == 0.7)
    tool.control.stop()
    tool.wait(5)


def test_frames_are_whole_and_the_newest_wins(somebody):
    """A run far faster than the screen: few messages, and the last one is the end of the run."""
    codec = Codec(12, "3x4x3")
    sent = []
    tool = widgets.LiveTraining(lambda control: fit(codec, torch.arange(12), steps=150, control=control, progress=False),
                                shape="3x4x3", words=[str(i) for i in range(12)], hz=5)
    tool.widget.observe(lambda change: sent.append(change.new["step"]), "news")
    tool.wait(60)
    soon(lambda: tool.widget.news["state"] == "finished" and tool.widget.news["step"] == 150)
    assert len(sent) < 100 and sent == sorted(sent)
    assert len(tool.widget.frame) == 12 * 3 * 4 * 3
    curves = np.frombuffer(tool.widget.curves, np.float32).reshape(-1, 2 + len(tool.widget.news["metrics"]))
    assert curves[-1, 0] == 150 and np.isfinite(curves).all()


def test_an_error_in_the_thread_is_shown_and_raised_by_wait(somebody):
    def train(control): raise TrainingError("the loss became nan at step 7")
    tool = widgets.LiveTraining(train)
    with pytest.raises(TrainingError, match="nan at step 7"): tool.wait(5)
    soon(lambda: tool.widget.news["error"] == "TrainingError: the loss became nan at step 7" and tool.widget.news["state"] == "failed")


def test_a_picture_that_cannot_be_cut_is_told(monkeypatch):
    """Live in the widget, while the run goes on; where nobody watches it is an error of the cell."""
    def make(): return widgets.LiveTraining(lambda control: fit(Codec(6, "4x5x3"), torch.arange(6), steps=3, control=control, progress=False), shape="3x3x3")
    monkeypatch.delenv("VTD_HEADLESS", raising=False)
    tool = make()
    assert tool.wait(20).finished
    soon(lambda: "a page of 3x3x3 grids is" in tool.widget.news["error"])
    monkeypatch.setenv("VTD_HEADLESS", "1")
    with pytest.raises(ValueError, match="a page of 3x3x3 grids is"): make()


def test_another_run_stops_the_one_before(somebody):
    first = watch(Slow())
    second = watch(Slow(), steps=2)
    assert not first.wait(5).finished and second.wait(5).finished


def test_a_notebook_keeps_a_reference_and_no_state(somebody):
    tools = [watch(Slow(), steps=1), widgets.GridInspector(HOSTILE, GRIDS)]
    for tool in tools:
        kept = tool._repr_mimebundle_()
        assert set(kept) == {"application/vnd.jupyter.widget-view+json", "text/plain"} and len(json.dumps(kept)) < 500


# --- where nobody watches


def test_it_trains_on_the_spot_and_leaves_a_player(nobody):
    codec = Codec(10, "4x5x3", "gumbel")
    tool = widgets.LiveTraining(lambda control: fit(codec, torch.arange(10), steps=50, control=control, progress=False),
                                shape="4x5x3", words=HOSTILE, frames=10)
    assert tool.wait(0).finished
    assert (inline := Slow()) and watch(inline, steps=2).wait(0).finished and inline.thread is threading.main_thread()
    assert [s.step for s in tool.snapshots][-1] == 50 and len(tool.snapshots) == 10
    page = shown(tool)
    assert "data-vtd-player" in page and "<polyline" in page and page.count("</script>") == 1 and "<img" not in page.replace("&lt;", "")
    assert len(page) < 60_000


def test_the_same_run_leaves_the_same_page(nobody):
    pages = []
    for _ in range(2):
        codec = Codec(10, "4x5x3")
        pages.append(shown(widgets.LiveTraining(lambda control: fit(codec, torch.arange(10), steps=20, control=control, progress=False), shape="4x5x3")))  # noqa: B023
    assert pages[0] == pages[1]


def test_an_error_in_the_loop_is_an_error_of_the_cell(nobody):
    def train(control): raise TrainingError("the loss became nan at step 7")
    with pytest.raises(TrainingError, match="nan at step 7"): widgets.LiveTraining(train)


def test_a_model_without_a_picture_leaves_its_curves(nobody):
    page = shown(watch(Slow(), steps=3))
    assert "data-vtd-player" not in page and page.count("<polyline") == 2


def inspector(): return widgets.GridInspector(HOSTILE, GRIDS, decode=lambda grids: np.log(np.full((1, len(HOSTILE)), 1 / len(HOSTILE))))


def denoiser():
    return widgets.Denoiser(lambda seed, held: [(f"level {t}", GRIDS * t / 3, [held.get(i, w) for i, w in enumerate(HOSTILE)], [t / 3] * 10) for t in range(4)], HOSTILE)


def composer():
    return widgets.Composer(HOSTILE, GRIDS, {"first": lambda picks, share: [(HOSTILE[picks[0]], GRIDS[picks[0]] * share, HOSTILE[0])]},
                            slots=("a", "b"), amounts={"first": "share"})


def explorer(): return widgets.MapExplorer(HOSTILE, GRIDS.reshape(10, -1)[:, :2], near=np.arange(10)[:, None] * 0, groups=HOSTILE)


@pytest.mark.parametrize("make", [inspector, denoiser, composer, explorer])
def test_hostile_words_end_no_script_and_make_no_element(nobody, make):
    page = shown(make())
    assert page.count("<script>") == page.count("</script>") == 1 and "<img" not in page and "\u2028" not in page
    words = json.dumps(embedded(page), ensure_ascii=False)
    assert "alert(1)" in words and "x" * 200 in words  # they are there, as data
    assert "http://" not in page and "https://" not in page


@pytest.mark.parametrize("make", [inspector, denoiser, composer])
def test_what_is_recorded_is_what_a_kernel_would_answer(monkeypatch, make):
    monkeypatch.setenv("VTD_HEADLESS", "1")
    answers = embedded(shown(make()))["answers"]
    assert answers
    monkeypatch.delenv("VTD_HEADLESS")
    tool, said = make(), []
    monkeypatch.setattr(type(tool.widget), "send", lambda self, content, buffers=None: said.append(content))
    for asked, recorded in answers.items():
        tool._heard(tool.widget, {"id": "1", "ask": json.loads(asked)}, [])
        assert said[-1] == {"id": "1", **json.loads(json.dumps(recorded))}


def test_an_error_of_a_tool_is_told_live_and_raised_where_nobody_watches(monkeypatch):
    def write(seed, held): raise ValueError("there is no token 'plum'")
    monkeypatch.setenv("VTD_HEADLESS", "1")
    with pytest.raises(ValueError, match="no token 'plum'"): widgets.Denoiser(write)
    monkeypatch.delenv("VTD_HEADLESS")
    tool, said = widgets.Denoiser(write), []
    monkeypatch.setattr(type(tool.widget), "send", lambda self, content, buffers=None: said.append(content))
    tool._heard(tool.widget, {"id": "a1", "ask": ["run", 0, []]}, [])
    assert said == [{"id": "a1", "error": "ValueError: there is no token 'plum'"}]


def test_the_inspector_finds_the_nearest_grids_and_the_likeliest_tokens(somebody):
    grids = np.zeros((4, 2, 2, 1))
    for i, level in enumerate((0.0, 0.1, 0.5, 1.0)): grids[i] = level
    said = torch.tensor([[0.1, 0.2, 0.6, 0.1]], requires_grad=True).log()
    answer = widgets.GridInspector("abcd", grids, decode=lambda g: said, near=2, likely=2).answer("token", 1)
    assert answer["near"] == [[0, 0.1], [2, 0.4]] and answer["says"] == [[2, 0.6], [1, 0.2]] and answer["cells"] == [0.1] * 4


@pytest.mark.parametrize("wrong, says", [
    (lambda: widgets.GridInspector(["a"], GRIDS), "1 words need patterns"), (lambda: widgets.GridInspector([], GRIDS[:0]), "no words"),
    (lambda: widgets.GridInspector(HOSTILE, GRIDS, start=10), "start is a token id in 0..9"),
    (lambda: widgets.GridInspector(HOSTILE, GRIDS, alt=" "), "needs an alt text"),
    (lambda: widgets.GridInspector(HOSTILE, GRIDS, decode=lambda g: np.zeros(3)), "decode gives log-probabilities"),
    (lambda: widgets.Denoiser(lambda seed, held: [], runs=0), "runs is 1 or more"),
    (lambda: widgets.Composer(HOSTILE, GRIDS, {}, slots=("a",)), "a way and a slot"),
    (lambda: widgets.Composer(HOSTILE, GRIDS, {"x": lambda p, s: []}, slots=("a",)), "one grid or more"),
    (lambda: widgets.Composer(HOSTILE, GRIDS, {"x": print}, slots=("a",), start=(99,)), "start is one token id"),
    (lambda: widgets.Composer(HOSTILE, GRIDS, {"x": print}, slots=("a",), amounts={"y": ""}), "amounts belong to ways"),
    (lambda: widgets.MapExplorer(HOSTILE, GRIDS[0, 0]), "a layout of 10 words"),
    (lambda: widgets.MapExplorer(HOSTILE, GRIDS.reshape(10, -1)[:, :2], near=[[99]] * 10), "token ids"),
    (lambda: widgets.LiveTraining(print, words=HOSTILE), "words need a shape"),
    (lambda: widgets.LiveTraining(print, temperature=(0, 1, 1)), "temperature is")])
def test_what_does_not_fit_is_told(nobody, wrong, says):
    with pytest.raises(ValueError, match=says): wrong()


# --- what is kept, and what is known


def test_a_record_stays_small_and_even():
    record = live.Record(frames=10, points=50)
    for step in range(1, 5001): record.add(Snapshot(step, 5000, 1.0, 0.0, {"a": step}))
    steps = np.diff([s.step for s in record.story()])
    assert len(record.story()) == 10 and record.newest.step == 5000 and steps.max() < 2 * steps.min()
    assert len(record.curves()) <= 101 and len(record.snapshots) <= 20 and len(record.recent) <= 64


def test_no_script_makes_markup_out_of_words():
    every = stage.SHARED + stage.ASK + stage.LIVE + stage.RECORDED + "".join(getattr(scripts, n) for n in ("INSPECT", "DENOISE", "COMPOSE", "MAP", "WATCH"))
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "http"): assert word not in every
    assert "prefers-reduced-motion" in scripts.WATCH and "transition" not in stage.STYLE + stage.STYLE_PARTS  # nothing else moves by itself


def test_the_tools_know_no_model():
    names = set()
    for module in (widgets, live, stage, scripts):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.ImportFrom) and node.level: names |= {node.module} if node.module else {a.name for a in node.names}
    assert names <= {"grids", "player", "training", "live", "stage", "scripts"}
