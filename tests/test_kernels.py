"""Laws of the kernels: what the whole table would give, in single and half precision, at any size and level, on every device there is.

Triton's kernels run here on a GPU, and otherwise under Triton's interpreter in a process of its own.
"""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from vtd import codebook, kernels
from vtd.kernels import codeword_cross_entropy, codeword_posterior, gumbel_grid, nearest_codeword, philox, uniform
from vtd.relaxations import gumbel

ROOT = Path(__file__).resolve().parents[1]
CUDA, INTERPRETED = torch.cuda.is_available(), os.environ.get("TRITON_INTERPRET") == "1"
# under the interpreter only what it is there for: Triton's kernels
BACKENDS = [("cpu", "triton")] if INTERPRETED else [("cpu", "torch")] + ([("cuda", "torch"), ("cuda", "triton")] if CUDA else [])
BAR = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
torch.backends.cuda.matmul.allow_tf32 = False

each_backend = pytest.mark.parametrize("device, backend", BACKENDS)
each_type = pytest.mark.parametrize("kind", BAR, ids=lambda k: str(k).removeprefix("torch."))
on_torch = pytest.mark.skipif(INTERPRETED, reason="only Triton's kernels are tested under the interpreter")


def error(found, true):
    """Norm of the difference by the norm of the truth; 0 for two zeros."""
    found, true = found.detach().cpu().double(), true.detach().cpu().double()
    assert found.shape == true.shape
    gap = (found - true).norm()
    return float(gap / true.norm()) if gap > 0 else 0.0


def problem(N, V, D, seed, low=-6.0, high=0.0, kind=torch.float32, device="cpu"):
    """Noisy cells, codewords, levels from low to high, and the ids that were sent; rounded to `kind`."""
    g = torch.Generator().manual_seed(seed)
    book, sent = torch.randn(V, D, generator=g), torch.randint(V, (N,), generator=g)
    level = low + (high - low) * torch.rand(N, generator=g)
    z = level.sigmoid().sqrt()[:, None] * book[sent] + (-level).sigmoid().sqrt()[:, None] * torch.randn(N, D, generator=g)
    return z.to(device, kind), book.to(device, kind), level.to(device), sent.to(device)


def table(z, book, level, logits=0.0):
    """The whole table of scores, as the denoiser has it."""
    from vtd.denoiser import matched_filter
    return matched_filter(z, level.to(z.dtype), book) + logits


def whole_posterior(z, book, level, logits=0.0):
    log_p = table(z, book, level, logits).log_softmax(-1)
    return log_p.exp() @ book, -(log_p.exp() * log_p.clamp(min=-1e4)).sum(-1), log_p.argmax(-1)


def slopes(value, *inputs): return torch.autograd.grad(value, inputs)


def leaf(x, kind=None): return x.detach().to(kind or x.dtype).requires_grad_()


def shapes(count, seed, largest, cells=(12, 192)):
    """Random sizes, the awkward ones first."""
    g = torch.Generator().manual_seed(seed)
    draw = lambda top: int(torch.randint(1, top + 1, (), generator=g))  # noqa: E731
    first = [(1, 1, 12), (1, 65, 192), (65, 1, 12), (63, 129, 192), (64, 128, 12)]
    return (first + [(draw(largest), draw(2 * largest), cells[draw(len(cells)) - 1]) for _ in range(count)])[:count]


MANY = shapes(7, 0, 50) if INTERPRETED else shapes(52, 0, 200)


@each_type
@each_backend
def test_posterior_of_many_shapes(device, backend, kind):
    worst = dict.fromkeys(("mean", "entropy", "slope of z", "slope of logits"), 0.0)
    for seed, (N, V, D) in enumerate(MANY):
        z, book, level, _ = problem(N, V, D, seed, kind=kind, device=device)
        g = torch.Generator().manual_seed(seed)
        with_logits = seed % 2 if kind == torch.float32 else D == 192  # few kinds of kernel, since each is compiled
        logits = torch.randn(N, V, generator=g).to(device, kind) if with_logits else None
        pull, tug = torch.randn(N, D, generator=g).to(device, kind), torch.randn(N, generator=g).to(device)

        def run(kind, f, z=z, logits=logits, pull=pull, tug=tug):
            given = [leaf(z, kind)] + ([] if logits is None else [leaf(logits, kind)])
            mean, entropy, top = f(*given)
            return mean, entropy, top, slopes((mean * pull.to(kind)).sum() + (entropy * tug).sum(), *given)
        mean, entropy, top, grads = run(kind, lambda z, *l: codeword_posterior(z, book, level, *l, backend=backend))  # noqa: B023
        true = run(torch.float64, lambda z, *l: whole_posterior(z, book.double(), level.double(), *l))  # noqa: B023
        assert mean.dtype == kind and entropy.dtype == torch.float32
        scores = table(z.double(), book.double(), level.double(), 0 if logits is None else logits.double())
        assert (scores.amax(1) - scores.gather(1, top[:, None])[:, 0] < 1e-3).all()
        found = {"mean": error(mean, true[0]), "entropy": error(entropy, true[1])}
        # one codeword has no slope; where it is nearly certain, a slope is a difference of equals: measured beside what pulls
        if V > 1:
            pulls = pull.double().norm() * level.exp().sqrt().max()
            found["slope of z"] = float((grads[0].double() - true[3][0]).norm() / max(true[3][0].norm(), pulls))
        if V > 1 and logits is not None: found["slope of logits"] = error(grads[1], true[3][1])
        worst = {k: max(v, found.get(k, 0.0)) for k, v in worst.items()}
    assert all(v <= BAR[kind] for v in worst.values()), worst


@each_type
@each_backend
def test_logits_that_all_rows_share(device, backend, kind):
    """The same as when each row is given them, forward and backward; they are a constant."""
    for N, V, D in ((33, 70, 12), (5, 131, 192)):
        z, book, level, _ = problem(N, V, D, 0, kind=kind, device=device)
        shared = torch.randn(V).to(device, kind)
        one, each = (leaf(z) for _ in range(2))
        found = codeword_posterior(one, book, level, leaf(shared), backend=backend)
        true = codeword_posterior(each, book, level, shared.expand(N, V), backend=backend)
        assert torch.equal(found.top, true.top)
        assert max(error(found.mean, true.mean), error(found.entropy, true.entropy)) <= BAR[kind]
        assert error(*(slopes(f.mean.sum() + f.entropy.sum(), x)[0] for f, x in ((found, one), (true, each)))) <= BAR[kind]


@each_type
@each_backend
def test_cross_entropy_of_many_shapes(device, backend, kind, monkeypatch):
    if backend == "triton":  # several pieces of the table, so that their edges are met
        from vtd import triton_kernels
        monkeypatch.setattr(triton_kernels, "PIECE", dict.fromkeys((False, True), (64, 96)))
    worst = dict.fromkeys(("loss", "h", "W", "bias"), 0.0)
    for seed, (N, V, D) in enumerate(MANY):
        z, book, level, sent = problem(N, V, D, seed, kind=kind, device=device)
        g, K = torch.Generator().manual_seed(seed), 20 if D == 12 else 64
        h, W = torch.randn(N, K, generator=g).to(device, kind), (torch.randn(V, K, generator=g) / K**0.5).to(device, kind)
        bias = torch.randn(V, generator=g).to(device) if D == 12 else None
        pull = torch.randn(N, generator=g).to(device, kind).float()
        given = [leaf(t) for t in (h, W, bias) if t is not None]
        loss = codeword_cross_entropy(given[0], given[1], z, book, level, sent, bias=given[2] if bias is not None else None, backend=backend)
        exact = [leaf(t, torch.float64) for t in given]
        scores = table(z.double(), book.double(), level.double(), F.linear(exact[0], exact[1], *exact[2:]))
        true = F.cross_entropy(scores, sent, reduction="none")
        found = {"loss": float((loss.double() - true).detach().norm() / max(true.detach().norm(), 1e-3 * N**0.5))}
        if V > 1:
            grads = zip(given, slopes((loss * pull).sum(), *given), slopes((true * pull).sum(), *exact), strict=True)
            found |= {name: error(a, b) for name, (_, a, b) in zip(("h", "W", "bias"), grads, strict=False)}
        worst = {k: max(v, found.get(k, 0.0)) for k, v in worst.items()}
    assert all(v <= BAR[kind] for v in worst.values()), worst


@each_type
@each_backend
def test_nearest_of_many_shapes(device, backend, kind):
    for seed, (N, V, D) in enumerate(MANY):
        z, book, _, _ = problem(N, V, D, seed, kind=kind, device=device)
        ids, far = nearest_codeword(z, book, backend=backend)
        true = torch.cdist(z.double(), book.double()).square()
        best = true.amin(1)
        assert ids.shape == far.shape == (N,) and far.dtype == torch.float32
        assert torch.allclose(true.gather(1, ids[:, None])[:, 0], best, rtol=1e-5) and torch.allclose(far.double(), best, rtol=1e-5)


@each_backend
def test_equally_near_codewords_give_the_lowest_id(device, backend):
    g = torch.Generator().manual_seed(0)
    book = torch.randint(-1, 2, (300, 12), generator=g).float().to(device)  # sums of whole numbers are exact: ties are ties
    z = torch.randint(-1, 2, (90, 12), generator=g).float().to(device)
    ids, far = nearest_codeword(z, book, backend=backend)
    true = (z[:, None] - book).square().sum(-1)
    assert torch.equal(far, true.amin(1))
    assert torch.equal(ids, (true == far[:, None]).float().argmax(1))
    if backend == "torch": assert torch.equal(far, true.gather(1, codebook.nearest_codeword(z, book)[:, None])[:, 0])


@pytest.mark.skipif(INTERPRETED, reason="slow under the interpreter")
@pytest.mark.parametrize("V", [49_408, 131_072])
@each_type
@each_backend
def test_large_vocabularies(device, backend, kind, V):
    N = 20 if device == "cpu" else 200
    z, book, level, sent = problem(N, V, 192, 0, low=-4, high=-1, kind=kind, device=device)
    h, W = torch.randn(N, 64).to(device, kind), (torch.randn(V, 64) / 8).to(device, kind)
    post = codeword_posterior(z, book, level, backend=backend)
    mean, entropy, top = whole_posterior(z.double(), book.double(), level.double())
    assert error(post.mean, mean) <= BAR[kind] and error(post.entropy, entropy) <= BAR[kind] and (post.top == top).double().mean() > 0.97
    given = leaf(h), leaf(W)
    loss = codeword_cross_entropy(*given, z, book, level, sent, backend=backend)
    exact = [leaf(t, torch.float64) for t in given]
    true = F.cross_entropy(table(z.double(), book.double(), level.double(), exact[0] @ exact[1].T), sent, reduction="none")
    assert error(loss, true) <= BAR[kind]
    for a, b in zip(slopes(loss.sum(), *given), slopes(true.sum(), *exact), strict=True): assert error(a, b) <= BAR[kind]
    ids, far = nearest_codeword(z, book, backend=backend)
    assert (ids == codebook.nearest_codeword(z.float(), book.float())).double().mean() > 0.97
    assert torch.allclose(far.double(), (z.double() - book[ids].double()).square().sum(-1), rtol=1e-5)


@each_type
@each_backend
def test_every_level_gives_numbers(device, backend, kind):
    for level in (-20, 0, 20) if INTERPRETED else range(-20, 21, 4):
        z, book, _, sent = problem(30, 70, 192, 1, low=level, high=level, kind=kind, device=device)
        z, h, W = leaf(z), leaf(torch.randn(30, 64).to(device, kind)), leaf(torch.randn(70, 64).to(device, kind))
        logits = torch.randn(30, 70).to(device, kind)
        logits[:, ::2] = -float("inf")  # a context may forbid tokens
        for context in (None, logits):
            post = codeword_posterior(z, book, level, context, backend=backend)
            slope, = slopes(post.mean.square().sum() + post.entropy.sum(), z)
            assert post.mean.isfinite().all() and post.entropy.isfinite().all() and slope.isfinite().all() and (post.entropy >= 0).all()
            if context is not None: assert (post.top % 2 == 1).all()
        loss = codeword_cross_entropy(h, W, z, book, level, sent, backend=backend)
        assert all(t.isfinite().all() for t in (loss, *slopes(loss.sum(), h, W))) and (loss >= 0).all()
        if level == 20: assert torch.equal(codeword_posterior(z, book, level, backend=backend).top, sent) and loss.max() < 1e-5


@on_torch
def test_gradients_of_the_references():
    z, book, level, sent = problem(4, 7, 3, 2, kind=torch.float64)
    g = torch.Generator().manual_seed(0)
    logits, h, W, bias = (torch.randn(*s, generator=g, dtype=torch.float64).requires_grad_() for s in ((4, 7), (4, 5), (7, 5), (7,)))
    assert torch.autograd.gradcheck(lambda z, l: codeword_posterior(z, book, level, l)[:2], (leaf(z), logits))
    loss = lambda h, W, b: codeword_cross_entropy(h, W, z, book, level, sent, bias=b)  # noqa: E731
    assert torch.autograd.gradcheck(loss, (h, W, bias))
    soft = lambda l: (l - (-uniform(torch.arange(4), 7, 3).double().log()).log()).div(0.7).softmax(-1)  # noqa: E731
    assert torch.autograd.gradcheck(soft, (logits,))
    pull = torch.randn(4, 7, generator=g, dtype=torch.float64)
    assert torch.allclose(*(slopes((f(logits) * pull).sum(), logits)[0] for f in (soft, lambda l: gumbel_grid(l, 0.7, 3))))


@pytest.mark.parametrize("C", [1, 3, 5, 70])
@each_backend
def test_sampled_colours_are_the_reference_ones(device, backend, C):
    g = torch.Generator().manual_seed(C)
    places = (31, 25) if C < 9 else (5, 25)
    logits, pull = torch.randn(*places, C, generator=g), torch.randn(*places, C, generator=g)
    for seed in (2**40 + 3,) if INTERPRETED else (0, 1, 2**40 + 3):
        a, b = leaf(logits), leaf(logits.to(device))
        true, drawn = gumbel_grid(a, 0.7, seed, backend="torch"), gumbel_grid(b, 0.7, seed, backend=backend)
        assert torch.equal(drawn.sum(-1), torch.ones(places, device=device)) and set(drawn.unique().tolist()) <= {0.0, 1.0}
        assert (drawn.cpu() != true).any(-1).sum() <= (device == "cuda")  # a logarithm's last bit may decide a tie
        assert (slopes((drawn * pull.to(device)).sum(), b)[0].cpu() - slopes((true * pull).sum(), a)[0]).abs().max() < 1e-5
    half = gumbel_grid(logits.to(device, torch.bfloat16), seed=2, backend=backend)
    assert half.dtype == torch.bfloat16 and torch.equal(half.float().sum(-1), torch.ones(places, device=device))


@each_backend
def test_a_place_keeps_its_colour_however_many_there_are(device, backend):
    logits = torch.zeros(2500, 3, device=device)
    draws = gumbel_grid(logits, seed=4, backend=backend)
    assert torch.equal(draws[:777], gumbel_grid(logits[:777], seed=4, backend=backend))
    assert not torch.equal(draws, gumbel_grid(logits, seed=5, backend=backend))
    assert (draws.mean(0) - 1 / 3).abs().max() < 0.04


@on_torch
def test_philox_is_the_published_generator():
    ones = philox(torch.full((1,), -1), 2**64 - 1)[0]
    assert [f"{w:08x}" for w in philox(torch.zeros(1, dtype=torch.long), 0)[0].tolist()] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]
    assert len(set(ones.tolist())) == 4 and ones.max() < 2**32
    u = uniform(torch.arange(50_000), 3, 7)
    assert 0 <= u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.003 and abs(u.var() - 1 / 12) < 0.001
    assert torch.corrcoef(u.T).fill_diagonal_(0).abs().max() < 0.02


@on_torch
def test_sampled_colours_are_those_of_the_relaxation():
    logits = torch.randn(40_000, 3, generator=torch.Generator().manual_seed(0)).mul(0.1)
    shares = [f.mean(0) for f in (gumbel_grid(logits, 0.5, 1), gumbel(logits, 0.5, torch.Generator().manual_seed(1)))]
    assert (shares[0] - shares[1]).abs().max() < 0.015


@on_torch
@pytest.mark.parametrize("N", [0, 1])
def test_no_rows_and_one_row(N):
    z, book, level, sent = problem(N, 9, 12, 0)
    h, W = torch.randn(N, 5), torch.randn(9, 5)
    post = codeword_posterior(z, book, level)
    assert [tuple(t.shape) for t in post] == [(N, 12), (N,), (N,)]
    assert codeword_cross_entropy(h, W, z, book, level, sent).shape == (N,)
    assert [tuple(t.shape) for t in nearest_codeword(z, book)] == [(N,), (N,)] and gumbel_grid(torch.zeros(N, 3)).shape == (N, 3)


@on_torch
@pytest.mark.parametrize("wrong, says", [
    (lambda z, P, l, x: codeword_posterior(z, P, l, backend="cuda"), "backend is one of auto, torch, triton, not 'cuda'"),
    (lambda z, P, l, x: codeword_posterior(z, P[:, :3], l), r"z is \(N, D\) and codebook \(V, D\)"),
    (lambda z, P, l, x: codeword_posterior(z, P, l[:2]), "log_snr is a number, or one for each of 5 rows"),
    (lambda z, P, l, x: codeword_posterior(z, P, l, torch.zeros(5, 8)), r"logits are \(N, V\), here \(5, 9\)"),
    (lambda z, P, l, x: codeword_cross_entropy(z, P[:8], z, P, l, x), r"W \(V, K\) with N = 5 and V = 9"),
    (lambda z, P, l, x: codeword_cross_entropy(z, P, z, P, l, x + 9), "a target is a token id from 0 to 8"),
    (lambda z, P, l, x: codeword_cross_entropy(z, P, z, P, l, x, bias=torch.zeros(3)), r"bias is \(V,\)"),
    (lambda z, P, l, x: nearest_codeword(z.double(), P, backend="triton"), "backend 'triton' needs"),
    (lambda z, P, l, x: gumbel_grid(z, tau=0.0), "a temperature is above 0, got 0.0"),
    (lambda z, P, l, x: gumbel_grid(z, seed=-1), "a seed is a whole number"),
    (lambda z, P, l, x: gumbel_grid(x), "logits are real numbers")])
def test_mistakes_are_told_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as told: wrong(*problem(5, 9, 12, 0))
    assert "\n" not in str(told.value)


@on_torch
def test_references_never_hold_the_table(monkeypatch):
    """Largest tensor made, forward and backward, against the N x V of the table, which the obvious way holds."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            made = [t.numel() for t in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(t, torch.Tensor)]
            Largest.size = max([Largest.size, *made])
            return out

    monkeypatch.setattr(kernels, "BUDGET", 2**14)
    N, V = 600, 800
    z, book, level, sent = problem(N, V, 12, 0)
    z, h, W = leaf(z), leaf(torch.randn(N, 8)), leaf(torch.randn(V, 8))
    with Largest():
        F.cross_entropy(table(z, book, level, h @ W.T), sent)
    assert Largest.size == N * V
    Largest.size = 0
    with Largest():
        post = codeword_posterior(z, book, level)
        (post.mean.sum() + post.entropy.sum() + codeword_cross_entropy(h, W, z, book, level, sent).sum()).backward()
        nearest_codeword(z, book)
    assert Largest.size <= 2**14


@on_torch
def test_a_reference_keeps_nothing_of_its_pieces(monkeypatch):
    """What is still held after backward, its results alive, whichever of them was pulled at: far less than one table."""
    monkeypatch.setattr(kernels, "BUDGET", 2**14)
    N, V = 600, 800
    z, book, level, sent = problem(N, V, 12, 0)
    z, h, W = leaf(z), leaf(torch.randn(N, 8)), leaf(torch.randn(V, 8))
    for f in (lambda: codeword_posterior(z, book, level), lambda: codeword_posterior(z, book, level)[::-1][1:],
              lambda: [codeword_cross_entropy(h, W, z, book, level, sent)]):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
            results = f()
            results[0].sum().backward()
        held = sum(e.self_cpu_memory_usage for e in seen.key_averages())
        assert held < N * V * 4 / 4, (held, len(results))


@pytest.mark.skipif(not CUDA or INTERPRETED, reason="needs a GPU")
def test_peak_memory_on_a_gpu(monkeypatch):
    from vtd import triton_basics
    monkeypatch.setattr(triton_basics, "LARGE", 2**60)  # to try all choices takes time
    N, V = 16_384, 49_408
    z, book, level, sent = problem(N, V, 192, 0, low=-3, high=-3, kind=torch.bfloat16, device="cuda")
    z, h, W = leaf(z), leaf(torch.randn(N, 64).to(z)), leaf(torch.randn(V, 64).to(z))

    def peak(f):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        f()
        return torch.cuda.max_memory_allocated() - before
    ours = [peak(lambda: codeword_posterior(z, book, level).mean.sum().backward()),
            peak(lambda: codeword_cross_entropy(h, W, z, book, level, sent).sum().backward()), peak(lambda: nearest_codeword(z, book))]
    eager = [peak(lambda: whole_posterior(z, book, level)[0].sum().backward()),
             peak(lambda: F.cross_entropy(table(z, book, level, h @ W.T).float(), sent).backward()),
             peak(lambda: torch.cdist(z.float(), book.float()).argmin(1))]
    assert all(10 * a < b for a, b in zip(ours, eager, strict=True)), (ours, eager)


@on_torch
def test_the_module_needs_no_triton():
    script = ("import sys; sys.modules['triton'] = None; import torch; from vtd.kernels import nearest_codeword, interpreted; "
              "z = torch.eye(3); print(nearest_codeword(z, z)[0].tolist(), any(m.startswith('vtd.triton') for m in sys.modules))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.strip() == "[0, 1, 2] False", done.stderr


@on_torch
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not made for this machine")
@pytest.mark.skipif(CUDA, reason="the kernels themselves are tested on the GPU")
def test_triton_kernels_under_the_interpreter():
    done = subprocess.run([sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__], capture_output=True, text=True,
                          env=os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 14
