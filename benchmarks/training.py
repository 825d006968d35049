"""Tokens a second in training: noisy grids beside autoregression of the same size in the same loop, float32, bfloat16 and compiled.

    OMP_NUM_THREADS=1 python benchmarks/training.py [--repeats 3] [--steps 3] [--text FILE]

Rounds take turns; the time of a step is the median over a round's steps, and a ratio is the median over rounds of autoregression's time in
float32 by the entry's: above 1, the entry is faster. Compilation itself is not counted. Grids from frequencies have no exact counting in a step. Writes results/benchmarks/training.json.
"""
import argparse
import json
import os
import statistics
import time
from pathlib import Path

import torch

from vtd import lab
from vtd.diffusion import build
from vtd.peers import build_peer
from vtd.text import Corpus, little_world, text_corpus
from vtd.training import fit

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "training.json"
MODES = {"float32": {}, "bfloat16": {"precision": "bfloat16"}, "compiled": {}}
WAYS = {"grids": build, "autoregression": lambda corpus: build_peer(corpus, "autoregressive"), "grids from frequencies": lambda corpus: build(corpus, chain=False)}


def seconds(model, corpus: Corpus, batch: int, steps: int, options: dict) -> float:
    """Median time of a step; the first two are left out."""
    marks = []
    fit(model, corpus.train, steps=steps + 3, batch=batch, every=1, callbacks=[lambda s: marks.append(time.perf_counter())], progress=False, **options)
    return statistics.median(b - a for a, b in zip(marks[2:], marks[3:], strict=False))


def race(corpus: Corpus, batch: int, repeats: int, steps: int) -> dict:
    """Tokens a second of every entry, and its speed by that of autoregression in float32."""
    models = {f"{way}, {mode}": make(corpus) for way, make in WAYS.items() for mode in (MODES if way != "grids from frequencies" else ["float32"])}
    for name, model in models.items():
        for region in model.regions() if name.endswith("compiled") else []: region.compile()  # once for all rounds; fit would do it in each
    rounds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(repeats + 1):  # the first warms up
        for name, model in models.items():
            found = seconds(model, corpus, batch, steps, MODES[name.split(", ")[1]])
            if turn: rounds[name].append(found)
    base, entries = rounds["autoregression, float32"], {}
    for name, taken in rounds.items():
        ratios = [b / a for a, b in zip(taken, base, strict=True)]
        entries[name] = {"tokens_a_second": round(batch * corpus.length / statistics.median(taken)), "parameters": sum(p.numel() for p in models[name].parameters()),
                         "speed_by_autoregression": {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}}
    return entries


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--text", help="also on this file: characters, windows of 64")
    given = parser.parse_args()
    record = {"device": lab._device(), "versions": lab._versions(), "threads": torch.get_num_threads(), "cores": os.cpu_count(),
              "load_before": round(os.getloadavg()[0], 2), "cases": {}}
    cases = {"little world, 64 pages": (little_world.corpus(20_000), 64)}
    if given.text: cases["characters, 16 pages of 64"] = text_corpus(given.text, "char", 64), 16
    for name, (corpus, batch) in cases.items():
        record["cases"][name] = race(corpus, batch, given.repeats, given.steps)
        for entry, found in record["cases"][name].items(): print(f"{name}: {entry:26} {found['tokens_a_second']:8,} tokens a second, {found['speed_by_autoregression']['median']}x")
    lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
