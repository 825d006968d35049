"""The kernels of vtd.kernels beside eager torch and torch.compile: writes results/benchmarks/kernels.<device>.json and prints a table.

    python benchmarks/kernels.py [--device cuda|cpu] [--out FILE] [--places 16384] [--tokens 49408] [--features 256]

Seconds are medians, after a first call that compiles; on a GPU the calls queue up, as in training. Memory is what a call takes beyond its
inputs: the allocator's peak on a GPU, the growth of resident memory in a process of its own on a CPU. `roofline` is the share of the speed
that the device could reach: the multiplications that a bounded memory needs (scores are made again for backward) at the rate of a large
matrix product in the same number type, or the bytes at the rate of a copy, whichever takes longer, both measured in the same run. It passes
100% for float32 where a kernel splits numbers for the tensor cores. `error` is the first result's, relative to float64, on some rows.
"""
import argparse
import ctypes
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from vtd import kernels
from vtd.grids import atomic_write

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
SIDES = ("ours", "eager", "compile")
CELLS, COLOURS, LEVEL = 192, 3, -2.5


class Case(NamedTuple):
    """What is timed: both ways to write it, inputs (those that need a gradient first), how many do, multiply-adds and passes over memory."""

    ours: Callable
    eager: Callable
    inputs: tuple
    slopes: int
    products: tuple[float, float]  # forward, forward and backward
    bytes: tuple[float, float]


def scores(z: Tensor, book: Tensor, level: Tensor) -> Tensor:
    gain, snr = torch.sigmoid(level).sqrt() / torch.sigmoid(-level), level.exp()
    return gain[:, None] * (z @ book.T) - snr[:, None] * (book.float().square().sum(-1) / 2)


def eager_posterior(z, book, level):
    log_p = scores(z, book, level).log_softmax(-1)
    p = log_p.exp()
    return p.to(book.dtype) @ book, -(p * log_p).sum(-1), log_p.argmax(-1)


def eager_cross_entropy(h, W, z, book, level, targets):
    return F.cross_entropy(h @ W.T + scores(z, book, level), targets, reduction="none")


def eager_nearest(z, book):
    half = book.float().square().sum(-1) / 2
    best, ids = (z @ book.T - half).max(1)
    return ids, z.float().square().sum(-1) - 2 * best


def eager_gumbel(logits): return F.gumbel_softmax(logits, 0.7, hard=True)


def make(name: str, kind: torch.dtype, device: str, given: argparse.Namespace) -> Case:
    """One kernel's case, its inputs drawn anew."""
    g = torch.Generator(device).manual_seed(0)
    N, V, K = given.places, given.tokens, given.features

    def draw(*shape): return torch.randn(*shape, generator=g, device=device)
    if name == "gumbel_grid":
        logits = draw(given.grids, COLOURS).to(kind)
        size = float(logits.numel() * logits.element_size())
        return Case(lambda x: kernels.gumbel_grid(x, 0.7), eager_gumbel, (logits,), 1, (0.0, 0.0), (2 * size, 5 * size))
    book, sent = draw(V, CELLS), torch.randint(V, (N,), generator=g, device=device)
    level = torch.full((N,), LEVEL, device=device)
    z = (torch.sigmoid(level).sqrt()[:, None] * book[sent] + torch.sigmoid(-level).sqrt()[:, None] * draw(N, CELLS)).to(kind)
    book, table = book.to(kind), float(N) * V
    moved = float(z.nbytes + book.nbytes)
    if name == "nearest_codeword": return Case(kernels.nearest_codeword, eager_nearest, (z, book), 0, (table * CELLS,) * 2, (moved, moved))
    if name == "codeword_posterior":
        return Case(kernels.codeword_posterior, eager_posterior, (z, book, level), 1, (2 * table * CELLS, 5 * table * CELLS), (moved, 2 * moved))
    h, W = draw(N, K).to(kind), (draw(V, K) / K**0.5).to(kind)
    forward, moved = table * (K + CELLS), moved + h.nbytes + W.nbytes
    return Case(kernels.codeword_cross_entropy, eager_cross_entropy, (h, W, z, book, level, sent), 2, (forward, 2 * forward + 2 * table * K),
                (moved, 2 * moved))


NAMES = ("codeword_posterior", "codeword_cross_entropy", "nearest_codeword", "gumbel_grid")


def caller(case: Case, side: str, backward: bool) -> Callable[[], object]:
    """A call without arguments: forward only, or forward and backward from the first result."""
    f = {"ours": case.ours, "eager": case.eager, "compile": None}[side] or torch.compile(case.eager, dynamic=False)
    inputs = [x.detach().requires_grad_(backward and i < case.slopes) for i, x in enumerate(case.inputs)]
    if not backward:
        def run():
            with torch.no_grad(): return f(*inputs)
        return run
    seed = []

    def both():
        out = f(*inputs)
        first = out[0] if isinstance(out, tuple) else out
        if not seed: seed.append(torch.randn_like(first))
        return torch.autograd.grad(first, inputs[: case.slopes], seed[0])
    return both


def wait(device: str) -> None:
    if device == "cuda": torch.cuda.synchronize()


def queued(run: Callable, calls: int) -> list[float]:
    """Seconds of each of so many calls that wait in the GPU's queue, as in training."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:], strict=False)]


def timed(run: Callable, calls: int) -> list[float]:
    """Seconds of each of so many calls on a CPU."""
    marks = [time.perf_counter()]
    for _ in range(calls):
        run()
        marks.append(time.perf_counter())
    return [b - a for a, b in zip(marks, marks[1:], strict=False)]


def seconds(run: Callable, device: str, budget: float = 0.3) -> float:
    """Median seconds of a call, over as many calls as the budget of seconds allows (3 to 30)."""
    each = queued if device == "cuda" else timed
    return statistics.median(each(run, int(min(30, max(3, budget / each(run, 1)[0])))))


def resident(field: str) -> int:
    """Bytes of a field of /proc/self/status (Linux)."""
    return int(re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def peak(run: Callable, device: str) -> int | None:
    """Bytes that a call takes beyond what is there before; None where the system does not tell."""
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier calls left is not reused unseen
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except (OSError, AttributeError): return None
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def relative_error(name: str, case: Case, found: object, rows: int = 128) -> float | None:
    """Error of the first result (distances for `nearest_codeword`) on some rows, relative to float64."""
    if name == "gumbel_grid": return None
    which = 1 if name == "nearest_codeword" else 0
    found = found[which] if isinstance(found, tuple) else found
    double = [x.detach()[:rows] if len(x) == len(found) else x.detach() for x in case.inputs]
    double = [x.double() if x.is_floating_point() else x for x in double]
    if name == "nearest_codeword": true = torch.cdist(*double).square().amin(1)
    else:
        true = case.eager(*double)
        true = true[0] if isinstance(true, tuple) else true
    return float((found[:rows].double() - true).norm() / true.norm())


def examine(name: str, side: str, kind: str, device: str, given: argparse.Namespace) -> list[dict]:
    """Rows of the table for one kernel, one side and one number type: forward, and backward if there is one."""
    rows = []
    for backward in (False, True):
        case = make(name, KINDS[kind], device, given)
        if backward and not case.slopes: continue
        run = caller(case, side, backward)
        begun = time.perf_counter()
        result = run()
        wait(device)
        compiled = time.perf_counter() - begun
        error = None if backward else relative_error(name, case, result)
        del result
        most = peak(run, device)
        rows.append({"kernel": name, "side": side, "type": kind, "pass": "forward, backward" if backward else "forward", "seconds": seconds(run, device),
                     "peak_bytes": most, "error": error, "first_call_seconds": compiled,
                     "multiply_adds": case.products[backward], "bytes": case.bytes[backward]})
        del run, case
        gc.collect()
        if device == "cuda": torch.cuda.empty_cache()
        torch.compiler.reset()
    return rows


def ceilings(device: str) -> dict:
    """What this device reaches: multiply-adds a second by type, bytes a second of a copy (read and written)."""
    size, length = (8192, 2**30) if device == "cuda" else (1024, 2**26)
    found = {}
    for kind, dtype in KINDS.items():
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        a @ b
        found[kind] = size**3 / seconds(lambda a=a, b=b: a @ b, device, 0.8)
    a = torch.zeros(length, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return found | {"copy": 2 * length / seconds(lambda: b.copy_(a), device, 0.8)}


def finish(rows: list[dict], limits: dict) -> list[dict]:
    """Ratios to ours, and shares of the roofline."""
    ours = {(r["kernel"], r["type"], r["pass"]): r for r in rows if r["side"] == "ours"}
    for r in rows:
        mine = ours[r["kernel"], r["type"], r["pass"]]
        r["by_ours"] = r["seconds"] / mine["seconds"]
        r["memory_by_ours"] = r["peak_bytes"] / mine["peak_bytes"] if r["peak_bytes"] and mine["peak_bytes"] else None
        r["roofline"] = max(r["multiply_adds"] / limits[r["type"]], r["bytes"] / limits["copy"]) / r["seconds"]
    return rows


def show(rows: list[dict], limits: dict) -> str:
    """The table."""
    lines = [f"{2 * limits['float32'] / 1e12:.1f} TFLOP/s float32, {2 * limits['bfloat16'] / 1e12:.1f} TFLOP/s bfloat16, copy {limits['copy'] / 1e9:.0f} GB/s",
             f"{'kernel':23}{'type':10}{'pass':19}{'side':9}{'ms':>10}{'by ours':>9}{'MiB':>10}{'by ours':>9}{'roofline':>10}{'error':>10}"]
    for r in sorted(rows, key=lambda r: (NAMES.index(r["kernel"]), r["type"], r["pass"], SIDES.index(r["side"]))):
        memory = f"{r['peak_bytes'] / 2**20:10.0f}" if r["peak_bytes"] is not None else " " * 9 + "?"
        more = f"{r['memory_by_ours']:9.1f}" if r["memory_by_ours"] else " " * 9
        error = f"{r['error']:10.1e}" if r["error"] is not None else ""
        lines.append(f"{r['kernel']:23}{r['type']:10}{r['pass']:19}{r['side']:9}{1e3 * r['seconds']:10.3f}{r['by_ours']:9.2f}{memory}{more}"
                     f"{r['roofline']:10.0%}{error}")
    return "\n".join(lines)


def warm(name: str, kind: str, given: argparse.Namespace) -> None:
    """Compiles every choice of a Triton kernel, on small inputs, into the cache on disk."""
    from vtd import triton_basics
    triton_basics.LARGE = 0
    small = argparse.Namespace(**vars(given) | {"places": 256, "tokens": 512, "grids": 4096})
    case = make(name, KINDS[kind], "cuda", small)
    for backward in (False, True)[: 1 + bool(case.slopes)]: caller(case, "ours", backward)()


def child(task: list[str], given: argparse.Namespace) -> subprocess.CompletedProcess:
    """This script in a process of its own."""
    sizes = [f"--{name}={getattr(given, name)}" for name in ("places", "tokens", "features", "grids")]
    return subprocess.run([sys.executable, __file__, f"--device={given.device}", *sizes, "--child", *task], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])})


def measure(given: argparse.Namespace) -> list[dict]:
    """All rows: on a GPU in this process, its kernels compiled beforehand side by side; on a CPU in a process for each side."""
    kinds, names = given.types.split(","), given.kernels.split(",")
    tasks = [(name, kind) for name in names for kind in kinds]
    if given.device == "cuda":
        with ThreadPoolExecutor(8) as pool:
            for done in pool.map(lambda t: child(["warm", *t], given), tasks):
                if done.returncode: print("not compiled beforehand:", (done.stderr.strip().splitlines() or ["?"])[-1], flush=True)
        print(f"kernels compiled after {time.perf_counter() - BEGUN:.0f} s", flush=True)
    rows = []
    for name, kind in tasks:
        for side in given.sides.split(","):
            if given.device == "cuda": rows += examine(name, side, kind, "cuda", given)
            else:
                done = child([name, side, kind], given)
                if done.returncode: sys.exit(f"{name}, {side}, {kind}: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
                rows += json.loads(done.stdout.splitlines()[-1])
        print(f"{name} {kind} after {time.perf_counter() - BEGUN:.0f} s", flush=True)
    return rows


def main() -> None:
    """Command line: measure, write the record, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, help="the record; by default results/benchmarks/kernels.<device>.json")
    parser.add_argument("--places", type=int, help="noisy grids (16,384 on a GPU, 2,048 on a CPU)")
    parser.add_argument("--tokens", type=int, help="codewords (49,408 on a GPU, 8,192 on a CPU)")
    parser.add_argument("--features", type=int, default=256, help="features of the last layer")
    parser.add_argument("--grids", type=int, help="places to colour (2**24 on a GPU, 2**18 on a CPU)")
    parser.add_argument("--types", help="float32,bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--kernels", default=",".join(NAMES))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    large = given.device == "cuda"
    given.types = given.types or ("float32,bfloat16" if large else "float32")
    given.places, given.tokens = given.places or (16_384 if large else 2048), given.tokens or (49_408 if large else 8192)
    given.grids = given.grids or (2**24 if large else 2**18)
    if given.child and given.child[0] == "warm": return warm(*given.child[1:], given)
    if given.child: return print(json.dumps(examine(*given.child, given.device, given)))
    device = torch.cuda.get_device_name() if large else platform.processor() or platform.machine()
    rows, limits = measure(given), ceilings(given.device)
    rows = finish(rows, limits)
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if kernels.has_triton(): versions["triton"] = __import__("triton").__version__
    record = {"command": "python benchmarks/kernels.py " + " ".join(sys.argv[1:]), "device": device, "versions": versions, "cells": CELLS,
              "log_snr": LEVEL, **{name: getattr(given, name) for name in ("places", "tokens", "features", "grids")},
              "threads": torch.get_num_threads(), "ceilings": limits, "rows": rows}
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") if large else "cpu"
    out = given.out or ROOT / "results" / "benchmarks" / f"kernels.{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    print(show(rows, limits))
    print(f"wrote {out} after {time.perf_counter() - BEGUN:.0f} s")


BEGUN = time.perf_counter()
if __name__ == "__main__":
    main()
