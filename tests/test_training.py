"""One loop: seeded, interruptible, resumable to the last bit, careful with what it writes."""
import math
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from vtd.codecs import Codec
from vtd.training import TrainingError, fit, learning_rate, pick_device, read_tensors, write_tensors


class Breaks(nn.Module):
    """Its loss is fine until `bad_step`, then no number."""

    def __init__(self, bad_step=10**9):
        super().__init__()
        self.w, self.calls, self.bad_step = nn.Parameter(torch.ones(3)), 0, bad_step

    def loss(self, batch, generator):
        self.calls += 1
        return (self.w * batch.float().mean()).square().sum() * (math.nan if self.calls > self.bad_step else 1.0)


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "run"
    with pytest.raises(TrainingError, match="loss became nan at step 25"):
        fit(Breaks(25), torch.ones(50), steps=100, checkpoint=path, save_every=10, progress=False)
    tensors, meta = read_tensors(path, "checkpoint")
    assert meta["step"] == 20 and all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())


@pytest.mark.parametrize("spoil, says", [
    (lambda data: data[: len(data) // 2], "truncated"), (lambda data: b"hello", "truncated"), (lambda data: b"", "truncated")])
def test_spoilt_checkpoints_are_told(tmp_path, spoil, says):
    path = tmp_path / "run"
    fit(Breaks(), torch.ones(50), steps=5, checkpoint=path, progress=False)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(TrainingError, match=says): fit(Breaks(), torch.ones(50), steps=5, checkpoint=path, progress=False)


def test_a_file_of_another_kind_is_told(tmp_path):
    write_tensors(tmp_path / "m", {"a": torch.ones(2)}, {"kind": "model"})
    with pytest.raises(TrainingError, match="holds model, not a vtd checkpoint"): read_tensors(tmp_path / "m", "checkpoint")


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    fit(Breaks(), torch.ones(50), steps=5, checkpoint=tmp_path / "run", mark="a", progress=False)
    with pytest.raises(TrainingError, match="other settings"):
        fit(Breaks(), torch.ones(50), steps=5, checkpoint=tmp_path / "run", mark="b", progress=False)


def test_callbacks_see_frozen_snapshots_and_can_stop():
    seen = []
    history = fit(Breaks(), torch.ones(50), steps=100, every=5, progress=False,
                  callbacks=[lambda s: seen.append(s) or s.step >= 15])
    assert [s.step for s in seen] == [5, 10, 15] and not history.finished
    with pytest.raises(AttributeError): seen[0].step = 3


def test_learning_rate_rises_stays_and_falls_to_nothing():
    rates = [learning_rate(s, 1000) for s in range(1000)]
    assert rates[0] < 0.05 and rates[300] == 1 and rates[-1] < 0.01


def test_unknown_devices_are_told():
    for name in ("gpu", "cuda:99", "tpu"):
        with pytest.raises(TrainingError, match="there is no device"): pick_device(name)


def test_the_loop_trains_a_codec_too():
    codec = Codec(50, "5x5x3")
    fit(codec, torch.arange(50), steps=120, lr=0.01, progress=False)
    ids = torch.arange(50)
    assert (codec.decode(codec.encode(ids)).argmax(-1) == ids).all()


def ends(encoder, decoder, **options):
    """A codec after 60 steps, all its numbers."""
    codec = Codec(20, "3x4x3", encoder=encoder, decoder=decoder)
    fit(codec, torch.arange(20), steps=60, lr=0.01, batch=16, progress=False, **options)
    return codec.state_dict()


@pytest.mark.parametrize("encoder, decoder, optimiser", [
    ("gumbel", "extreme", "adamw"), ("score-function", "linear", "adamw"), ("continuous", "dense", "sgd")])
def test_a_codec_stopped_and_resumed_ends_the_same(tmp_path, encoder, decoder, optimiser):
    """Also what is annealed and what is settled at the end."""
    whole, options = ends(encoder, decoder, optimiser=optimiser), {"optimiser": optimiser, "checkpoint": tmp_path / "run"}
    stopped = ends(encoder, decoder, every=1, callbacks=[lambda s: s.step == 23], **options)
    again = ends(encoder, decoder, **options)
    assert all(torch.equal(again[k], v) for k, v in whole.items())
    assert not all(torch.equal(stopped[k], v) for k, v in whole.items())


class Busy(nn.Module):
    """Each step takes 10 ms of the processor."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def loss(self, batch, generator):
        end = time.process_time() + 0.01
        while time.process_time() < end: pass
        return self.w.square().sum()


def test_processor_time_is_of_steps_alone_and_goes_on(tmp_path):
    """Neither a callback that works nor waiting counts; what was spent before a stop does."""
    options = {"steps": 20, "batch": 4, "seed": 0, "every": 1, "checkpoint": tmp_path / "run", "progress": False}

    def look(snapshot):
        time.sleep(0.02)
        return snapshot.step == 10

    first = fit(Busy(), torch.arange(8), callbacks=[look], **options)
    spent = first.cpu_seconds
    assert not first.finished and 0.1 <= spent < first.seconds - 0.15
    assert spent + 0.1 <= fit(Busy(), torch.arange(8), **options).cpu_seconds


class Watched(Breaks):
    """Notes what the loop tells it; its matrix is one that AdamW would leave to Muon."""

    def __init__(self):
        super().__init__()
        self.matrix, self.told = nn.Parameter(torch.eye(3)), []

    def hidden_matrices(self): return [self.matrix]
    def set_progress(self, share): self.told.append(share)
    def settle(self): self.told.append("settled")
    def loss(self, batch, generator): return (self.matrix @ self.w - batch.float().mean()).square().sum()


def test_the_model_is_told_how_far_the_run_is_and_settles_last():
    model = Watched()
    fit(model, torch.ones(50), steps=4, progress=False)
    assert model.told == [0.0, 0.25, 0.5, 0.75, "settled"]


def test_sgd_is_plain_descent_for_every_weight():
    """One step at the warm-up's rate, hidden matrices too; and a running mean that keeps a tenth of the start."""
    model, lr = Watched(), 0.1
    start = [p.detach().clone() for p in (model.w, model.matrix)]
    slopes = torch.autograd.grad(model.loss(torch.full((128,), 3.0), None), (model.w, model.matrix))
    assert all(slope.abs().max() > 1 for slope in slopes)
    fit(model, torch.full((50,), 3.0), steps=1, lr=lr, optimiser="sgd", progress=False)
    for p, before, slope in zip((model.w, model.matrix), start, slopes, strict=True):
        assert torch.allclose(p, before - 0.9 * lr * learning_rate(0, 1) * slope, atol=1e-7)


COMMAND = [sys.executable, "-c", "from vtd.cli import main; main()", "train", "--steps", "600", "--width", "32", "--layers",
           "1", "--batch", "8", "--device", "cpu", "--seed", "3", "--out"]


def test_killed_at_random_and_resumed_ends_the_same(tmp_path):
    """SIGKILL at ten random moments, the same command again and again: the weights of an undisturbed run, bit for bit."""
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    once = subprocess.run([*COMMAND, tmp_path / "once"], env=env, capture_output=True, text=True)
    assert once.returncode == 0, once.stderr
    moments, kills = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen([*COMMAND, tmp_path / "killed"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(2.0, 6.5))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    last = subprocess.run([*COMMAND, tmp_path / "killed"], env=env, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert kills >= 3, "the run must have been killed some times for this test to mean anything"
    a, b = (read_tensors(tmp_path / name, "model")[0] for name in ("once", "killed"))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["killed", "once"]


def test_a_time_budget_follows_the_pace_and_one_slow_step_does_not_end_it(monkeypatch):
    """A clock that moves a tenth of a second a step, and stalls for five at the third: nearly as many steps fit as without the stall."""
    now = {"t": 0.0}
    monkeypatch.setattr("vtd.training.time.monotonic", lambda: now["t"])
    seen = []

    class Timed(Breaks):
        def loss(self, batch, generator):
            now["t"] += 5.0 if len(seen) == 2 else 0.1
            return super().loss(batch, generator)
    history = fit(Timed(), torch.ones(50), minutes=1, every=1, callbacks=[seen.append], progress=False)
    assert history.finished and 500 <= history.steps[-1] <= 560 and 55 <= history.seconds <= 65
    assert len({s.steps for s in seen[400:]}) == 1  # the number stands while the rate falls
