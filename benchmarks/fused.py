"""A training step with a table of places by words and without one (`vtd train --fused`): writes results/benchmarks/fused.json.

    OMP_NUM_THREADS=1 python benchmarks/fused.py [--tokens 2048,8192,49408] [--pages 32] [--length 32] [--rounds 3] [--device cpu]

Each side runs in a process of its own, the sides in turn; `--rounds` of them. A round's time is the median of its steps, the ratio the median
over rounds with its range. Memory is how far a step grows what the process holds (on a GPU: the allocator's peak) beyond model and optimiser.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "fused.json"
sys.path.insert(0, str(Path(__file__).parent))
from kernels import peak  # noqa: E402

from vtd import diffusion, lab  # noqa: E402
from vtd.clocks import Schedule  # noqa: E402
from vtd.contest import where  # noqa: E402
from vtd.text import Corpus, Vocabulary  # noqa: E402
from vtd.training import fit  # noqa: E402


def counting(V: int, length: int) -> Corpus:
    """A made-up corpus: what the words are does not change a step's cost."""
    ids = (torch.arange(200)[:, None] * 7919 + torch.arange(length)) % V
    return Corpus("counting", Vocabulary([f"w{i}" for i in range(V)], "word"), ids.numpy(), ids[:8].numpy())


def measure(fused: bool, V: int, given: argparse.Namespace) -> dict:
    """Seconds of a step (median), bytes that one takes, parameters."""
    corpus, marks = counting(V, given.length), []
    diffusion.measure_schedule = lambda signal, log_prior: Schedule(-8.0, 4.0)  # measuring one takes longer than all steps here, and matters to none
    model = diffusion.build(corpus, net={"fused": fused}, chain=False)
    options = {"batch": given.pages, "device": given.device, "progress": False, "every": 1, "callbacks": [lambda s: marks.append(time.perf_counter())]}
    fit(model, corpus.train, steps=given.steps + 2, **options)
    ids = torch.as_tensor(corpus.train[: given.pages], device=model.device)
    step = lambda: model.loss(ids, torch.Generator(model.device).manual_seed(0)).backward()  # noqa: E731
    step()
    return {"seconds": statistics.median(b - a for a, b in zip(marks[1:], marks[2:], strict=False)), "bytes": peak(step, given.device),
            "parameters": sum(p.numel() for p in model.parameters()), "device": where(model.device)}


def child(side: str, V: int, given: argparse.Namespace) -> dict:
    """One side in a process of its own."""
    sizes = [f"--{name}={getattr(given, name)}" for name in ("pages", "length", "steps", "device")]
    done = subprocess.run([sys.executable, __file__, *sizes, "--child", side, str(V)], capture_output=True, text=True)
    if done.returncode: sys.exit(f"{side}, {V} tokens: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def race(V: int, given: argparse.Namespace) -> dict:
    """Both sides at one size of the vocabulary."""
    rounds = [{side: child(side, V, given) for side in ("fused", "table")} for _ in range(given.rounds)]
    ratios = [r["table"]["seconds"] / r["fused"]["seconds"] for r in rounds]
    sides = {side: {"seconds": statistics.median(r[side]["seconds"] for r in rounds), "bytes": max(r[side]["bytes"] for r in rounds),
                    "parameters": rounds[0][side]["parameters"]} for side in ("fused", "table")}
    return {"tokens": V, **sides, "time_table_by_fused": {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios)},
            "memory_table_by_fused": sides["table"]["bytes"] / max(1, sides["fused"]["bytes"]), "device": rounds[0]["fused"]["device"]}


def main() -> None:
    """Command line: measure, write the record, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", default="2048,8192,49408")
    parser.add_argument("--pages", type=int, default=32)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child: return print(json.dumps(measure(given.child[0] == "fused", int(given.child[1]), given)))
    rows = []
    for V in map(int, given.tokens.split(",")):
        rows.append(race(V, given))
        r = rows[-1]
        print(f"{V:7,} tokens: with a table {r['table']['seconds']:.2f} s and {r['table']['bytes'] / 2**20:,.0f} MiB a step, fused {r['fused']['seconds']:.2f} s and "
              f"{r['fused']['bytes'] / 2**20:,.0f} MiB: {r['time_table_by_fused']['median']:.2f} times the time, {r['memory_table_by_fused']:.1f} times the memory", flush=True)
        save(rows, given)


def save(rows: list[dict], given: argparse.Namespace) -> None:
    """The record of what is measured so far."""
    record = {"command": "python benchmarks/fused.py " + " ".join(sys.argv[1:]), "rows": rows, "pages": given.pages, "length": given.length,
              "threads": torch.get_num_threads(), "cores": os.cpu_count(), "versions": lab._versions()}
    lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
