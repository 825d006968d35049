"""The engine at full strength: precision, compilation, shares of a batch, several processes, sharded checkpoints."""
import copy
import json
import os
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from vtd.checkpoints import read_checkpoint
from vtd.codecs import Codec
from vtd.diffusion import build
from vtd.peers import build_peer
from vtd.processes import Share, TrainingError, shares
from vtd.text import little_world
from vtd.training import fit, share_loss

CORPUS = little_world.corpus(500)
SMALL = {"width": 32, "layers": 1, "self_condition": True}


@lru_cache(None)
def built(**options):
    return build(CORPUS, net=SMALL, **options)


def grids(**options):
    """A small diffusion model; measuring its schedule, which takes longest, is done once."""
    return copy.deepcopy(built(**options))


def run(model, steps=8, data=CORPUS.train, **options):
    """Losses and weights after some steps."""
    losses = []
    fit(model, data, steps=steps, batch=12, every=1, callbacks=[lambda s: losses.append(s.loss)], progress=False, **options)
    return torch.tensor(losses), model.state_dict()


def near(a, b, tolerance=2e-3):
    """Equal curves and weights, up to what the order of sums does in a few steps."""
    return torch.allclose(a[0], b[0], rtol=1e-4, atol=1e-5) and all(
        torch.allclose(a[1][k].float(), v.float(), rtol=tolerance, atol=tolerance) for k, v in b[1].items())


@pytest.mark.parametrize("make, data", [
    (lambda: grids(), CORPUS.train), (lambda: grids(objective="cells"), CORPUS.train),
    (lambda: build_peer(CORPUS, "autoregressive", net={"width": 32, "layers": 1}), CORPUS.train),
    (lambda: Codec(20, "3x4x3", encoder="gumbel"), torch.arange(20)),
    (lambda: Codec(20, "3x4x3", encoder="score-function"), torch.arange(20)),
    (lambda: Codec(20, "3x4x3", encoder="straight-through", decoder="extreme"), torch.arange(20)),
    (lambda: Codec(20, "3x4x3", negatives=5), torch.arange(20))],
    ids=["grids", "cells", "autoregressive", "gumbel", "score-function", "extreme", "negatives"])
def test_shares_add_up_to_the_batch(make, data):
    """One step's gradients and loss, then a run in five passes beside one."""
    batch, found = torch.as_tensor(data[:12]), []
    for parts in ([None], shares(12, accumulate=5)):
        model, total = make().train(), 0.0
        for share in parts:
            loss = share_loss(model, batch, share, 0, 3)
            loss.backward()
            total += loss.item()
        found.append((total, [p.grad for p in model.parameters()]))
    (whole, slopes), (summed, added) = found
    assert summed == pytest.approx(whole, rel=1e-5)
    assert all((a is None) == (b is None) and (a is None or torch.allclose(a, b, rtol=1e-3, atol=1e-6)) for a, b in zip(slopes, added, strict=True))
    assert near(run(make(), data=data, accumulate=5), run(make(), data=data))


def test_the_schedule_learns_from_shares_what_it_learns_from_the_batch():
    models = [grids(chain=False) for _ in range(2)]
    before = models[0].schedule.integrand.clone()
    for model, passes in zip(models, (1, 3), strict=True): run(model, accumulate=passes, steps=3)
    assert not torch.allclose(models[0].schedule.integrand, before, rtol=1e-3)
    assert torch.allclose(models[0].schedule.integrand, models[1].schedule.integrand, rtol=1e-4)


def test_shares_cover_a_batch_and_too_many_are_refused():
    for batch, size, passes in ((7, 2, 3), (12, 3, 4), (5, 5, 1)):
        rows = [i for rank in range(size) for s in shares(batch, size, rank, passes) for i in range(batch)[s.rows]]
        assert rows == list(range(batch))
    assert shares(9) == [None] and shares(4, 2, 1) == [Share(2, 4, True)]
    with pytest.raises(TrainingError, match="cannot be divided"): shares(3, 2, 0, 2)


@pytest.mark.parametrize("options, says", [
    ({"precision": "float16"}, "float32 or bfloat16, not 'float16'"), ({"accumulate": 0}, "1 or more, not 0"),
    ({"accumulate": 1.5}, "whole number"), ({"accumulate": 500}, "cannot be divided"), ({"compile": True}, "lacks regions")])
def test_wrong_options_are_told_in_one_line(options, says):
    class Plain(torch.nn.Linear):
        def loss(self, batch, generator): return self(batch).mean()
    with pytest.raises(TrainingError, match=says) as error: fit(Plain(1, 1), torch.ones(5, 1), steps=1, progress=False, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make, data", [(lambda: grids(), CORPUS.train), (lambda: Codec(20, "3x4x3"), torch.arange(20))], ids=["grids", "codec"])
def test_bfloat16_rounds_the_network_and_nothing_else(make, data):
    """Weights stay float32 and the curve stays near; a difference there is, or it would not have been on."""
    exact, rounded = run(make(), data=data), run(make(), data=data, precision="bfloat16")
    assert all(v.dtype == exact[1][k].dtype for k, v in rounded[1].items())
    assert torch.allclose(exact[0], rounded[0], rtol=0.05) and not torch.equal(exact[0], rounded[0])


def test_evidence_is_exact_under_autocast():
    """The counted chain and the matched filter give the same belief to the last bit."""
    model = grids()
    z, levels = torch.randn(3, 12, 192, generator=torch.Generator().manual_seed(0)), torch.linspace(-6, 2, 12).expand(3, 12)
    with torch.no_grad():
        evidence = model.net.loglik(z, levels)
        told = model.net.start(evidence, evidence)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model.net.loglik(z, levels), evidence) and torch.equal(model.net.start(evidence, evidence), told)


def test_compiled_regions_train_the_same_and_are_left_as_they_were():
    plain, model = (build_peer(CORPUS, "autoregressive", net={"width": 32, "layers": 2}) for _ in range(2))
    plain = run(plain, steps=3)
    assert near(run(model, steps=3, compile=True), plain)
    assert all(block._compiled_call_impl is None for block in model.regions())


def test_a_folder_of_shards_resumes_like_a_file(tmp_path):
    """To the last bit; a lost shard and a spoilt index are told."""
    whole = run(grids(), steps=9)
    folder = f"{tmp_path}/run/"
    for stop in (4, None):
        model = grids()
        fit(model, CORPUS.train, steps=9, batch=12, every=1, callbacks=[lambda s, stop=stop: s.step == stop], checkpoint=folder, save_every=2, progress=False)
    assert all(torch.equal(v, whole[1][k]) for k, v in model.state_dict().items())
    assert sorted(p.name for p in Path(folder).iterdir()) == ["index.json", "step-00000009-00001-of-00001.safetensors"]
    (Path(folder) / "step-00000009-00001-of-00001.safetensors").unlink()
    with pytest.raises(TrainingError, match="no shard file"): fit(grids(), CORPUS.train, steps=9, checkpoint=folder, progress=False)
    (Path(folder) / "index.json").write_text("{")
    with pytest.raises(TrainingError, match="missing or spoilt"): read_checkpoint(folder)


WORKER = """
import json, sys
from pathlib import Path
import torch
from test_engine import CORPUS, grids, run
from vtd.codecs import Codec
from vtd.processes import Processes
from vtd.training import fit

out, many = Path(sys.argv[1]), Processes()
assert many.size == 2
found = {"grids": run(grids()), "passes": run(grids(), accumulate=2),
         "codec": run(Codec(20, "3x4x3", encoder="gumbel"), data=torch.arange(20)),
         "muon": run(grids(chain=False), lr_matrix=0.02)}
for name in ("half", "half", "other"):  # the second goes on from the first; the parent goes on from the third
    model = grids()
    fit(model, CORPUS.train, steps=8, batch=12, every=1, checkpoint=f"{out}/{name}/", save_every=3, progress=False,
        callbacks=[lambda s: s.step == 4 and (name == "other" or not (out / "again").exists())])
    many.wait()
    if many.first: (out / "again").touch()
    many.wait()
    if name == "half": found["resumed"] = (torch.zeros(0), model.state_dict())
torch.save(found, out / f"{many.rank}.pt")
"""


def two(words, cwd, timeout=120):
    """The same command in two processes, told who they are as torchrun does it; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    env = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", str(Path(__file__).parents[1]))])}
    started = [subprocess.Popen([sys.executable, *map(str, words)], env=env | {"RANK": str(n), "LOCAL_RANK": str(n)}, cwd=cwd, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for n in range(2)]
    try: said = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started: process.kill()
    assert all(process.returncode == 0 for process in started), said
    return said


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two processes found, and the folder in which they left it."""
    folder = tmp_path_factory.mktemp("pair")
    two(["-c", WORKER, folder], folder)
    return [torch.load(folder / f"{n}.pt") for n in range(2)], folder


def test_two_processes_run_like_one(pair):
    """Curves and weights near those of one process; the two processes equal to the last bit, running mean and schedule included."""
    (first, second), _ = pair
    assert all(torch.equal(v, second[name][1][k]) for name in first for k, v in first[name][1].items())
    assert all(len(first[name][0]) == 8 and len(second[name][0]) == 0 for name in ("grids", "passes", "codec"))  # one tells
    alone = run(grids())
    assert near(first["grids"], alone) and near(first["passes"], alone)
    assert near(first["muon"], run(grids(chain=False), lr_matrix=0.02))
    assert near(first["codec"], run(Codec(20, "3x4x3", encoder="gumbel"), data=torch.arange(20)))


def test_two_processes_resume_to_the_last_bit_and_one_goes_on_from_two(pair):
    (first, _), folder = pair
    assert all(torch.equal(v, first["grids"][1][k]) for k, v in first["resumed"][1].items())
    index = json.loads((folder / "other" / "index.json").read_text())
    sizes = [(folder / "other" / file).stat().st_size for file in sorted(set(index["weight_map"].values()))]
    assert index["metadata"]["step"] == 4 and len(sizes) == 2 and max(sizes) < 1.5 * min(sizes)
    model = grids()
    history = fit(model, CORPUS.train, steps=8, batch=12, every=1, checkpoint=folder / "other", progress=False)
    assert near((torch.tensor(history.losses), model.state_dict()), first["grids"])


def test_the_command_trains_on_two_processes_and_only_one_speaks(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(little_world.sample(300)))
    words = ["train", "--text", "t.txt", "--steps", 6, "--width", 16, "--layers", 1, "--length", 8, "--batch", 8, "--no-chain", "--device", "cpu", "--out"]
    said = two(["-m", "vtd.cli", *words, "two.st"], tmp_path)
    assert "trained 6 steps" in said[0][0] and "saved two.st" in said[0][0] and said[1][0] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.txt", "two.st"]
