"""A sweep on machines that die: writes results/benchmarks/sweep.json.

    python benchmarks/sweep.py [--runs 100] [--kills 5] [--restarts 1] [--seconds 0.3]

`vtd sweep` hands the runs of a tiny chapter to a Dask scheduler with two workers, all in processes of their own on this machine.
Busy workers are ended by SIGKILL, and so is the scheduler, which is started again at the same address with nothing in its memory.
Then every run must have its record, once, equal byte for byte to the one that the same run leaves when nobody is disturbed.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "sweep.json"
sys.path.insert(0, str(ROOT / "tests"))


def spread(times: int, runs: int, of: int = 1, nth: int = 0) -> list[int]:
    """After how many records something happens so many times, evenly; `nth` of `of` kinds of things take turns."""
    return [int(runs * (i + (nth + 0.5) / of) / (times + 0.5)) for i in range(times)]


def undisturbed(book: Path, seeds: range, grid: dict) -> tuple[dict[str, bytes], list]:
    from machines import records

    from vtd import sweep

    found = sweep.sweep("walk", seeds, grid, workers=2, out=book / "undisturbed", progress=False)
    assert found.done == len(found.jobs), found.failed
    return records(book / "undisturbed" / "walk"), found.jobs


def measure(given: argparse.Namespace, book: Path) -> dict:
    from machines import disturbed, records, write_walk

    write_walk(book)
    seeds, grid = range(given.runs // 2), {"drift": [0.0, 0.5]}
    kills, restarts = spread(given.kills, given.runs, 2), spread(given.restarts, given.runs, 2, 1)
    words = ["--seeds", f"0:{given.runs // 2}", "-p", "drift=0,0.5"]
    told = disturbed(book, given.runs, kills, restarts, given.seconds, 600, words)
    wanted, jobs = undisturbed(book, seeds, grid)
    found = records(book / "_runs" / "sweeps" / "walk")
    return {
        "runs": len(jobs), "workers": 2, "seconds_a_run": given.seconds, "seconds": round(told["seconds"], 1), "exit_status": told["status"],
        "workers_killed": told["killed"], "scheduler_restarts": given.restarts - told["not_restarted"],
        "begun": len(told["begun"]), "begun_again": len(told["begun"]) - len({run for _, run in told["begun"]}),
        "records": len(found), "lost": len(wanted.keys() - found.keys()), "foreign_or_half_written": len(found.keys() - wanted.keys()),
        "written_twice": len(told["rewritten"]), "different_from_undisturbed": sum(found[k] != wanted[k] for k in found.keys() & wanted.keys()),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, kind, default in (("runs", int, 100), ("kills", int, 5), ("restarts", int, 1), ("seconds", float, 0.3)):
        parser.add_argument(f"--{name}", type=kind, default=default)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vtd-sweep-") as folder:
        os.environ["VTD_ROOT"] = folder
        found = measure(given, Path(folder))
    versions = {name: version(name) for name in ("vtd", "dask", "distributed")} | {"python": platform.python_version()}
    found |= {"versions": versions, "cores": os.cpu_count()}
    given.out.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    print(json.dumps(found, indent=1, sort_keys=True))
    faults = ("exit_status", "lost", "foreign_or_half_written", "written_twice", "different_from_undisturbed")
    sys.exit(any(found[name] for name in faults))
