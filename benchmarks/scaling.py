"""One process and two at equal global batch: loss curves and steps a second. Writes results/benchmarks/scaling.json.

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--steps 40] [--repeats 3]

The little world's model, trained from the same seed by one process and by two (gloo, one thread each), started by torchrun; rounds take
turns. The ratio is the median over rounds of the time of a step with one process by that with two: 2 would be perfect.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from vtd import lab
from vtd.diffusion import build
from vtd.processes import Processes
from vtd.text import little_world
from vtd.training import fit

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "scaling.json"


def work(out: str, steps: int, batch: int) -> None:
    """One run, in as many processes as were started; the first writes its curve and the seconds of a step, the first ten left out."""
    corpus, seen = little_world.corpus(20_000), []
    fit(build(corpus), corpus.train, steps=steps, batch=batch, every=1, callbacks=[lambda s: seen.append((s.loss, s.seconds))], progress=False)
    if not Processes().first: return
    pace = [b[1] - a[1] for a, b in zip(seen[10:], seen[11:], strict=False)]
    Path(out).write_text(json.dumps({"losses": [loss for loss, _ in seen], "step": statistics.median(pace)}))


def launch(size: int, steps: int, batch: int) -> dict:
    """The same program in `size` processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={size}"] if size > 1 else []
        subprocess.run([sys.executable, *words, __file__, "--work", out, "--steps", str(steps), "--batch", str(batch)], check=True,
                       env=os.environ | {"OMP_NUM_THREADS": "1"})
        return json.loads(out.read_text())


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--work", help="of a process that this program starts")
    given = parser.parse_args()
    if given.work: return work(given.work, given.steps, given.batch)
    rounds = [[launch(size, given.steps, given.batch) for size in (1, 2)] for _ in range(given.repeats)]
    one, two = (torch.tensor(found["losses"]) for found in rounds[0])
    ratios = [a["step"] / b["step"] for a, b in rounds]
    record = {"device": lab._device(), "versions": lab._versions(), "cores": os.cpu_count(), "batch": given.batch, "steps": given.steps,
              "load_before": round(os.getloadavg()[0], 2), "losses": {"1": [round(x, 6) for x in one.tolist()], "2": [round(x, 6) for x in two.tolist()]},
              "largest_relative_difference": float(((one - two).abs() / one).max()),
              "seconds_a_step": {str(n + 1): [round(r[n]["step"], 4) for r in rounds] for n in range(2)},
              "speed_of_two_by_one": {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}}
    lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(f"two processes by one: {record['speed_of_two_by_one']}; curves differ by {record['largest_relative_difference']:.1e} at most")


if __name__ == "__main__":
    main()
