"""A newcomer's path, timed from a fresh clone: install, read, re-run a chapter with another parameter, see the changed page.

    python benchmarks/newcomer.py [--chapter channel-codes] [-p seeds=[0,1,2]]      writes results/benchmarks/newcomer.json

Needs git, make and what `make install` fetches; nothing of this checkout is used but its history. Some ten minutes.
"""
import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def step(name: str, command: list[str], folder: Path, times: dict[str, float]) -> str:
    """What a command prints, its seconds noted under a name; a failure ends the script with the command's last line."""
    begun = time.monotonic()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VTD_ROOT")})
    if done.returncode: sys.exit(f"{name}: {' '.join(command)} failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    times[name] = round(time.monotonic() - begun, 1)
    print(f"{name:34}{times[name]:8.1f} s", flush=True)
    return done.stdout


def read(folder: Path, page: str, port: int = 8123) -> str:
    """A page as a browser gets it from `vtd serve`."""
    server = subprocess.Popen([folder / ".venv/bin/vtd", "serve", "--port", str(port)], cwd=folder, stdout=subprocess.DEVNULL)
    try:
        for _ in range(100):
            try: return urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=5).read().decode()
            except OSError: time.sleep(0.2)
        sys.exit(f"{page} was not served")
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chapter", default="channel-codes")
    parser.add_argument("-p", dest="parameter", default="seeds=[0,1,2]", help="name=value, other than the default")
    given, times = parser.parse_args(), {}
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "vtd"
        step("clone", ["git", "clone", "-q", str(ROOT), str(folder)], Path(top), times)
        step("install", ["make", "install"], folder, times)
        step("the site", ["make", "site"], folder, times)
        stem = next(p.stem for p in (folder / "nbs/chapters").glob(f"*{given.chapter.replace('-', '_')}.ipynb"))
        before = read(folder, f"chapters/{stem}.html")
        step("a chapter with another parameter", [".venv/bin/vtd", "run", given.chapter, "-p", given.parameter, "--page"], folder, times)
        after = read(folder, f"chapters/{stem}.html")
        changed = re.search(r"<dt>Run</dt><dd>[0-9a-f]{12}, \d+ s</dd>", after)
        if before == after or not changed: sys.exit("the page is as it was")
        untouched = step("git status", ["git", "status", "--porcelain"], folder, times)
        if untouched: sys.exit(f"tracked files were changed: {untouched}")
    record = {"command": f"python benchmarks/newcomer.py --chapter {given.chapter} -p {given.parameter}", "machine": f"{platform.machine()}, {os.cpu_count()} cores",
              "python": platform.python_version(), "seconds": times, "total_seconds": round(sum(times.values()), 1)}
    out = ROOT / "results" / "benchmarks" / "newcomer.json"
    out.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    print(f"{'in all':34}{record['total_seconds']:8.1f} s; wrote {out.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
