"""Contests: the same for all, resumable, and judged by the same pages."""
import math
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import torch

from vtd import contest as c
from vtd.clocks import CLOCKS, INDEPENDENT
from vtd.judges import Judge, divergence, grams, nearest_training
from vtd.recipes import Recipe
from vtd.text import little_world
from vtd.training import fit

SMALL = c.Contest(sentences=1500, steps=4, batch=8, width=32, layers=1, windows=12, draws=2, pages=6, calls=(2,), marks=2)


@pytest.mark.parametrize("name", c.ENTRIES)
def test_every_entry_trains_and_is_measured(name, tmp_path):
    if name == "glyph": pytest.skip("the little world's words are too long for its grid: chapter 10 draws glyphs of characters")
    small = replace(SMALL, chain=False) if name == "no tables" else SMALL
    found = c.play(small, name, 0, tmp_path)
    assert all(math.isfinite(path["value"]) for path in found["bits"].values()) and len(found["curve"]) == 2
    assert found == c.play(small, name, 0, tmp_path)


def test_no_tables_and_counts_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="chain: false"): c.play_all(SMALL, ["masked", "no tables"], [0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_command_gives_the_same_result(tmp_path):
    one, two = (c.play(SMALL, "grid", 3, tmp_path / folder) for folder in "ab")
    for found in (one, two):
        for clock in ("seconds", "cpu_seconds"): found.pop(clock)
        for seen in found["written"].values(): seen.pop("seconds")
    assert one == two


def test_a_stopped_entry_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = c.play(SMALL, "masked", 1, tmp_path / "whole")
    def stopped(*args, callbacks, **options): return fit(*args, callbacks=[*callbacks, lambda snapshot: snapshot.step >= 2], **options)
    monkeypatch.setattr(c, "fit", stopped)
    with pytest.raises(KeyboardInterrupt): c.play(SMALL, "masked", 1, tmp_path / "cut")
    assert list((tmp_path / "cut").glob("*.checkpoint")) and not list((tmp_path / "cut").glob("*.json"))
    monkeypatch.undo()
    again = c.play(SMALL, "masked", 1, tmp_path / "cut")
    assert again["bits"] == whole["bits"] and again["curve"] == whole["curve"] and len(list((tmp_path / "cut").iterdir())) == 1


def test_the_fingerprint_is_of_a_text_not_of_its_place(tmp_path):
    for name, text in (("a", "to be"), ("b", "to be"), ("c", "or not")): (tmp_path / name).write_text(text)
    one, same, other = (replace(SMALL, text=str(tmp_path / name)).fingerprint("grid", 0) for name in "abc")
    assert one == same != other


def test_the_fingerprint_knows_every_setting():
    prints = {SMALL.fingerprint("grid", 0), SMALL.fingerprint("grid", 1), SMALL.fingerprint("masked", 0), replace(SMALL, steps=5).fingerprint("grid", 0)}
    assert len(prints) == 4


def test_default_is_the_design_of_vtd_train():
    """What `vtd train` builds, and what is judged under that name, are one design; the standard of the contests is another."""
    mine, judged, standard = Recipe(width=16, layers=1).model(SMALL.corpus), c.make(SMALL, "default", 0), c.make(SMALL, "grid", 0)
    assert mine.clocks == judged.clocks == CLOCKS and standard.clocks == INDEPENDENT
    assert mine.options["gated"] and judged.options["gated"] and not standard.options.get("gated")


@pytest.mark.parametrize("name, before", [("shared levels", "grid"), ("masked by its bound", "masked")])
def test_what_was_before_is_an_entry_now(name, before, tmp_path):
    """`shared` contests (as records from before 2026-11-27 are) train as the entries of those names, and autoregression does not care."""
    one, same, other = c.play(SMALL, name, 0, tmp_path), c.play(replace(SMALL, shared=True), before, 0, tmp_path), c.play(SMALL, before, 0, tmp_path)
    assert one["bits"] == same["bits"] != other["bits"]
    assert replace(SMALL, shared=True).fingerprint("autoregressive", 0) == SMALL.fingerprint("autoregressive", 0)


def test_permuted_codewords_are_the_same_codewords():
    one, other = (c.meant_codebook(SMALL.corpus, "8x8x1", permuted, 0) for permuted in (False, True))
    rows = [{tuple(row) for row in (book.patterns.flatten(1) * 255).round().int().tolist()} for book in (one, other)]
    assert rows[0] == rows[1] and not torch.equal(one.patterns, other.patterns)


def test_unknown_entries_are_told_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match="gird"): c.play_all(SMALL, ["grid", "gird"], [0], tmp_path)
    assert not list(tmp_path.iterdir())


def test_holes_are_as_many_as_asked_and_never_padding():
    ids = SMALL.corpus.valid[:50]
    ids = ids[(ids > 0).sum(1) > 3]
    holes = c.holes_in(ids, 3, 0)
    assert (holes.sum(1) == 3).all() and not holes[ids == 0].any()


def test_surprise_of_all_words_is_the_value_from_left_to_right():
    model = c.make(SMALL, "masked", 0)
    ids = torch.as_tensor(SMALL.corpus.valid[:20])
    whole = c.surprise_of(model, "masked", ids, torch.ones_like(ids, dtype=torch.bool), 0)
    assert np.allclose(whole.numpy(), model.bits(ids, order="left-to-right").per_text, atol=1e-2)


def test_judges_tell_noise_parrots_and_copies():
    world = little_world.corpus(3000, 400)
    judge, real = Judge(world), world.valid[:150]
    assert judge(world.valid[150:300])["divergence"] < judge(np.random.default_rng(0).permutation(real.ravel()).reshape(150, -1))["divergence"]
    assert divergence(grams(real, 2), grams(real, 2)) == 0
    changed = world.train[:5].copy()
    changed[:, 0] = (changed[:, 0] + 1) % 200
    assert (nearest_training(changed, world) <= 1).all()


def is_worker(process):
    """Whether a process plays in a contest; one that has just ended, such as a helper of Python's own, does not."""
    try: return "spawn_main" in " ".join(process.cmdline())
    except psutil.Error: return False


def test_workers_end_with_a_contest_that_was_killed(tmp_path):
    script = (f"from vtd.contest import Contest, play_all; "
              f"play_all(Contest(sentences=2000, steps=100_000, batch=8, width=32, layers=1, marks=0), ['grid', 'masked'], [0], {str(tmp_path)!r}, workers=2)")
    contest, deadline = subprocess.Popen([sys.executable, "-c", script]), time.monotonic() + 120
    try:
        workers = []
        while len(workers) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            workers = [p for p in psutil.Process(contest.pid).children() if is_worker(p)]
    finally:  # whatever went wrong, no contest goes on by itself
        contest.kill()
        contest.wait()
    gone, alive = psutil.wait_procs(workers, timeout=30)
    for p in alive: p.kill()
    assert len(gone) == 2 and not alive
