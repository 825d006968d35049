"""Seconds and calls for a written page: noisy grids beside autoregression with a memory, batch 1 and 64, in one process.

    OMP_NUM_THREADS=1 python benchmarks/writing.py [--repeats 5]

Untrained models of equal size from the same text: what a page costs does not depend on the weights. Rounds take turns; the ratio is the
median over rounds of grid time by autoregression's. Writes results/benchmarks/writing.json.
"""
import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from vtd import lab
from vtd.contest import Contest, make, written
from vtd.diffusion import GridDiffusion

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "writing.json"


def seconds(model, n: int, how: dict) -> float:
    """Wall-clock of `n` pages written in one go."""
    begun = time.perf_counter()
    written(model, n, how, 1.0, 0)
    return time.perf_counter() - begun


def race(contest: Contest, batch: int, calls: list[int], repeats: int) -> dict:
    """Median ratio of a grid page's time to an autoregressive page's, with the extremes, by calls."""
    grid, peer = make(contest, "grid", 0).eval(), make(contest, "autoregressive", 0).eval()
    rounds: dict[str, list[float]] = {f"grid, {n} calls": [] for n in calls} | {"autoregression": []}
    for turn in range(repeats + 1):  # the first warms up
        for name, taken in rounds.items():
            how = {} if name == "autoregression" else {"nfe": int(name.split()[1]), "order": "together", "overlap": 1.0, "sampler": "ddim"}
            found = seconds(peer if name == "autoregression" else grid, batch, how)
            if turn: taken.append(found)
    slow = rounds.pop("autoregression")
    ratios = {name: [a / b for a, b in zip(taken, slow, strict=True)] for name, taken in rounds.items()}
    return {"autoregression_calls": contest.length if contest.text else GridDiffusion.load().length, "autoregression_seconds": round(statistics.median(slow), 4),
            "time_by_autoregression": {name: {"median": round(statistics.median(r), 3), "low": round(min(r), 3), "high": round(max(r), 3)} for name, r in ratios.items()}}


def main() -> None:
    """Command line: both texts, both batches."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--text", default="_data/text/tinyshakespeare.txt", help="characters, windows of 64; left out if it is not there")
    given, record = parser.parse_args(), {"device": lab._device(), "versions": lab._versions(), "threads": torch.get_num_threads(), "cores": os.cpu_count(), "cases": {}}
    texts = {"little world": Contest()} | ({"characters, 64 a page": Contest(text=str(ROOT / given.text))} if (ROOT / given.text).exists() else {})
    for name, contest in texts.items():
        for batch in (1, 64):
            found = race(contest, batch, [4, 8, 16, 64], given.repeats)
            record["cases"][f"{name}, batch {batch}"] = found
            print(f"{name}, batch {batch}: " + ", ".join(f"{k} {v['median']}x [{v['low']}, {v['high']}]" for k, v in found["time_by_autoregression"].items()), flush=True)
    lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
