"""Nearest-codeword decoding beside faiss-cpu IndexFlatL2, time and memory: writes results/benchmarks/nearest.json.

    pip install faiss-cpu
    python benchmarks/nearest.py [--grids 100000] [--repeats 5] [--threads 2]

Both search the same noisy grids among the same codewords, turn by turn in one process (who goes first alternates); the index
of faiss is filled beforehand, ours prepares its codewords within the time. Memory is measured in a process of its own for each,
started before this one has grown (a process inherits the peak of the one that starts it).
"""
import argparse
import importlib.metadata
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "nearest.json"
SIDES = ("ours", "faiss")


def make(grids: int, tokens: int, snr_db: float, seed: int, folder: Path) -> None:
    """Codewords of a random black and white codebook (8x8x3), ids that are sent, and their noisy grids, as files."""
    import torch

    from vtd.codes import Codebook

    generator = torch.Generator().manual_seed(seed)
    codewords = Codebook.binary(tokens, shape="8x8x3", seed=seed).signal
    ids = torch.randint(tokens, (grids,), generator=generator)
    noise = torch.randn(grids, codewords.shape[1], generator=generator) * 10 ** (-snr_db / 20)
    np.save(folder / "codewords.npy", codewords.numpy())
    np.save(folder / "signal.npy", (codewords[ids] + noise).numpy())
    np.save(folder / "ids.npy", ids.numpy())


def searcher(side: str, codewords: np.ndarray, given: argparse.Namespace):
    """A function: noisy grids `(N, cells)` -> ids `(N,)`. Only this side's library is imported."""
    if side == "ours":
        import torch

        from vtd.codes import nearest_codeword
        torch.set_num_threads(given.threads)
        table, pieces = torch.from_numpy(codewords), {k: v for k in ("rows", "columns") if (v := getattr(given, k))}
        return lambda signal: nearest_codeword(torch.from_numpy(signal), table, **pieces).numpy()
    import faiss

    faiss.omp_set_num_threads(given.threads)
    index = faiss.IndexFlatL2(codewords.shape[1])
    index.add(codewords)
    return lambda signal: index.search(signal, 1)[1][:, 0]


def peak_mib() -> float:
    """The most memory this process has held so far, in MiB (ru_maxrss is in KiB on Linux, in bytes on macOS)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def child(given: argparse.Namespace) -> None:
    """A process of its own: makes the inputs, or searches once and prints the peak before (all loaded) and after."""
    side, folder = given.child, given.folder
    if side == "inputs": return make(given.grids, given.tokens, given.snr_db, given.seed, folder)
    codewords, signal = np.load(folder / "codewords.npy"), np.load(folder / "signal.npy")
    searcher(side, codewords[:2], given)(signal[:2])  # the library is loaded and has started its threads
    before = peak_mib()
    searcher(side, codewords, given)(signal)
    print(json.dumps({"inputs_mib": (codewords.nbytes + signal.nbytes) / 2**20, "before_mib": before, "peak_mib": peak_mib(),
                      "grown_mib": peak_mib() - before}))


def options(given: argparse.Namespace) -> list[str]:
    """The options that say what is measured, as they are written on the command line."""
    names = ("grids", "tokens", "snr_db", "repeats", "threads", "seed", "rows", "columns")
    return [f"--{name.replace('_', '-')}={v:g}" if name == "snr_db" else f"--{name}={v}" for name in names if (v := getattr(given, name)) is not None]


def spawn(task: str, given: argparse.Namespace, folder: Path) -> dict:
    """What a child says: `inputs`, `ours` or `faiss`."""
    done = subprocess.run([sys.executable, __file__, *options(given), f"--folder={folder}", f"--child={task}"], capture_output=True, text=True)
    if done.returncode: sys.exit(f"{task} failed: {(done.stderr.strip() or str(done.returncode)).splitlines()[-1]}")
    return json.loads(done.stdout or "{}")


def race(folder: Path, given: argparse.Namespace) -> tuple[dict, dict]:
    """Seconds of each side, turn by turn, and the ids that each found; a short search before warms both up."""
    codewords, signal = np.load(folder / "codewords.npy"), np.load(folder / "signal.npy")
    search = {side: searcher(side, codewords, given) for side in SIDES}
    for side in SIDES: search[side](signal[:4096])
    seconds, found = {side: [] for side in SIDES}, {}
    for turn in range(given.repeats):
        for side in SIDES[:: 1 if turn % 2 else -1]:
            time.sleep(0.5)  # the other side's idle threads stop spinning
            start = time.perf_counter()
            found[side] = search[side](signal)
            seconds[side].append(time.perf_counter() - start)
            print(f"{turn}: {side} {seconds[side][-1]:.2f} s", flush=True)
    return seconds, found


def compare(folder: Path, found: dict) -> dict:
    """Share of ids that agree, how far apart the distances are where they do not, and the share read rightly."""
    codewords, signal, sent = (np.load(folder / f"{name}.npy") for name in ("codewords", "signal", "ids"))
    apart = np.flatnonzero(found["ours"] != found["faiss"])
    far = {side: np.square(signal[apart] - codewords[ids[apart]], dtype=np.float64).sum(1) for side, ids in found.items()}
    differ = np.abs(far["ours"] / far["faiss"] - 1).max() if len(apart) else 0.0
    return {"agree": float((found["ours"] == found["faiss"]).mean()), "disagree": len(apart), "largest_relative_difference": float(differ),
            "read_rightly": {side: float((ids == sent).mean()) for side, ids in found.items()}}


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try: lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError: lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure(given: argparse.Namespace) -> dict:
    """The record: seconds, their ratio (faiss by ours: above 1 ours is faster) with a 95% interval over turns, memory, agreement."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spawn("inputs", given, folder)
        held = {side: spawn(side, given, folder) for side in SIDES}
        load = os.getloadavg()[0]
        seconds, found = race(folder, given)
        agreement = compare(folder, found)
    from vtd import lab  # imported last, or its memory would be counted

    logs = lab.mean_interval([math.log(f / o) for o, f in zip(seconds["ours"], seconds["faiss"], strict=True)])
    ratio = {"value": math.exp(logs.value), "low": math.exp(logs.low), "high": math.exp(logs.high), "n": given.repeats}
    return {"command": " ".join(["python benchmarks/nearest.py", *options(given)]),
            "grids": given.grids, "tokens": given.tokens, "cells": 192, "snr_db": given.snr_db, "seed": given.seed, "threads": given.threads,
            "cores": os.cpu_count(), "load_before": load, "device": lab._device(), "processor": processor(),
            "versions": lab._versions() | {"faiss-cpu": importlib.metadata.version("faiss-cpu")}, "seconds": seconds,
            "median_seconds": {side: float(np.median(s)) for side, s in seconds.items()}, "faiss_by_ours": ratio, "memory": held} | agreement


def main() -> None:
    """Command line: measure, write the record, and say it in four lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--grids", type=int, default=100_000)
    parser.add_argument("--tokens", type=int, default=49_408)
    parser.add_argument("--snr-db", type=float, default=-7.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="grids a piece; without it what nearest_codeword takes by itself")
    parser.add_argument("--columns", type=int, help="codewords a piece; likewise")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", choices=("inputs", *SIDES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child: return child(given)
    try: importlib.metadata.version("faiss-cpu")
    except importlib.metadata.PackageNotFoundError: sys.exit("this benchmark compares with faiss: pip install faiss-cpu")
    record = measure(given)
    from vtd import lab

    lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    ratio = record["faiss_by_ours"]
    print(f"faiss takes {ratio['value']:.2f} times as long as ours (95% interval {ratio['low']:.2f} to {ratio['high']:.2f}): "
          f"{record['median_seconds']['faiss']:.1f} s and {record['median_seconds']['ours']:.1f} s")
    for side, m in record["memory"].items():
        print(f"{side}: peak {m['peak_mib']:.0f} MiB, {m['grown_mib']:.0f} MiB more than before the search, {m['inputs_mib']:.0f} MiB of it inputs")
    print(f"ids agree on {record['agree']:.4%}; read rightly: {record['read_rightly']}")


if __name__ == "__main__":
    main()
