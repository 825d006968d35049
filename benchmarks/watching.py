"""What it costs to watch a run, and how soon a person is obeyed: writes results/benchmarks/watching.json.

    python benchmarks/watching.py [--pairs 12] [--seconds 2] [--repeats 5]

A codec is trained in a real JupyterLab with a real browser looking on (needs Chromium and playwright). Within one run the watching is
switched off and on, a few seconds each, in the order off on on off; the cost is the time of a step watched by that of a step unwatched,
and the same for the processor time of the thread that trains and of the whole kernel, which other work on the machine disturbs less
(with a processor of their own the kernel's other threads and the browser cost the run nothing).
The other numbers are wall-clock times on the same machine: from the cell's output to the first picture, in kernels newly started, once
its imports are done; from a press of Pause to the end of the last step, from a press of Stop to the end of the run; and frames drawn a second.
"""
import argparse
import importlib.metadata
import json
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "watching.json"
sys.path.insert(0, str(ROOT / "tests"))
from laboratory import ARGUMENTS, BROWSER, Bench, jupyterlab, wait_until, write_notebook  # noqa: E402

PREPARE = """
import json, pathlib, time, torch
from vtd import widgets
from vtd.codecs import Codec
from vtd.training import fit

class Timed(Codec):
    "A codec that notes when each of its steps begins, and in blocks of so many seconds switches the watching off and on."
    control = show = None
    blocks, begun, from_, count = [], 0.0, (0.0, 0.0), 0

    def set_progress(self, share):
        super().set_progress(share)
        now, worked = time.time(), (time.thread_time(), time.process_time())
        self.last, self.count = now, self.count + 1
        if self.control is None or share * STEPS < 150: self.begun, self.from_, self.count = now, worked, 0
        elif now - self.begun >= SECONDS and len(self.blocks) < 2 * PAIRS:
            self.blocks.append((self.control.show is not None, (now - self.begun) / self.count, *((a - b) / self.count for a, b in zip(worked, self.from_))))
            n, self.begun, self.from_, self.count = len(self.blocks), now, worked, 0
            self.control.show = self.show if n % 4 in (1, 2) else None
            pathlib.Path(FOLDER, "blocks.json").write_text(json.dumps(self.blocks))

def run(timed):
    codec = Timed(192, "8x8x3", "gumbel")
    def train(control):
        if timed: codec.blocks, codec.control, codec.show, control.show = [], control, control.show, None
        fit(codec, torch.arange(192), steps=STEPS, batch=192, control=control, progress=False)
        pathlib.Path(FOLDER, "stopped").write_text(str(time.time()))
    return codec, widgets.LiveTraining(train, shape="8x8x3", words=[f"token {i}" for i in range(48)])
"""
SHOW = "codec, live = run(False)\nlive"
LAST = "pathlib.Path(FOLDER, 'last').write_text(str(codec.last))"
TIMED = "timed, watched = run(True)\nwatched"


def seconds_since(path: Path, begun: float, most: float = 60) -> float:
    """Seconds from `begun` to the time that a kernel writes into a file, which must be a later one."""
    wait_until(lambda: path.exists() and path.read_text() and path.stat().st_mtime > begun, most, f"{path.name} is not written")
    return max(0.0, float(path.read_text()) - begun)


def press(bench: Bench, name: str) -> float:
    """Presses a button; when."""
    button = bench.button(name)
    button.scroll_into_view_if_needed()
    now = time.time()
    button.click()
    return now


def first_picture(bench: Bench) -> float:
    """Seconds from the cell's output to its first painted frame, both as the browser saw them."""
    bench.page.evaluate("""() => { window.seen = {}; const look = () => {
        const now = performance.now(), tool = [...document.querySelectorAll('.vtd-live[data-frames]')].pop(), out = document.querySelectorAll('.jp-OutputArea-output');
        if (out.length) seen.output ??= now;
        if (tool) { seen.frame ??= now; return; }
        requestAnimationFrame(look); }; look(); }""")
    bench.run_cell()
    wait_until(lambda: bench.page.evaluate("seen.frame !== undefined"), 60, "there is no picture")
    return bench.page.evaluate("(seen.frame - seen.output) / 1000")


def obey(bench: Bench, folder: Path, given: argparse.Namespace) -> dict:
    """Frames a second, and seconds until a pause and a stop are obeyed."""
    wait_until(lambda: bench.step() > 150, 120, "the run does not go on")
    before, begun = int(bench.told("frames")), time.monotonic()
    time.sleep(5)
    found = {"frames_per_second": (int(bench.told("frames")) - before) / (time.monotonic() - begun), "pause_seconds": []}
    for _ in range(given.repeats):
        pressed = press(bench, "Pause")
        wait_until(lambda: bench.told("state") == "paused", 20, "it does not pause")
        time.sleep(1.0)
        (folder / "last").unlink(missing_ok=True)
        bench.ran = 2
        bench.run_cell()  # when the last step began, by the kernel's clock
        found["pause_seconds"].append(seconds_since(folder / "last", pressed, 30))
        press(bench, "Resume")
        time.sleep(1.0)
    found["stop_seconds"] = seconds_since(folder / "stopped", press(bench, "Stop"))
    return found


def first_pictures(browser, address: str, repeats: int) -> list[float]:
    """Seconds to the first picture in notebooks opened afresh, each with a kernel of its own, whose run is then stopped."""
    found = []
    for i in range(repeats):
        bench = Bench(browser, address, f"first-{i}.ipynb")
        bench.run_cell()
        found.append(first_picture(bench))
        press(bench, "Stop")
        wait_until(lambda bench=bench: bench.told("state") == "stopped", 20, "it does not stop")
        bench.page.context.close()
    return found


def look(browser, address: str, folder: Path, given: argparse.Namespace) -> dict:
    """One notebook opened afresh: its obedience, then what watching costs."""
    bench = Bench(browser, address, "watching.ipynb")
    bench.run_cell()
    first_picture(bench)
    (folder / "stopped").unlink(missing_ok=True)
    found = obey(bench, folder, given)
    bench.ran = 3
    bench.page.locator(".jp-CodeCell").nth(3).scroll_into_view_if_needed()
    bench.run_cell()
    bench.page.locator(".vtd-live").last.scroll_into_view_if_needed()
    wait_until(lambda: (folder / "blocks.json").exists() and len(json.loads((folder / "blocks.json").read_text() or "[]")) == 2 * given.pairs,
               60 + 4 * given.pairs * given.seconds, "the blocks do not come")
    found["blocks"] = json.loads((folder / "blocks.json").read_text())
    if bench.faults: sys.exit(f"the scripts failed: {bench.faults}")
    return found


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try: lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError: lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def ratio(seconds: dict[str, list[float]]) -> dict:
    """Watched by unwatched, with a 95% interval over pairs of blocks (of the logarithm)."""
    from vtd import lab

    logs = lab.mean_interval([math.log(w / u) for w, u in zip(seconds["watched"], seconds["unwatched"], strict=True)])
    return {"value": math.exp(logs.value), "low": math.exp(logs.low), "high": math.exp(logs.high), "n": len(seconds["watched"])}


def measure(given: argparse.Namespace) -> dict:
    """The record: the ratio with a 95% interval over pairs of blocks, and the times."""
    from playwright.sync_api import sync_playwright

    from vtd import lab

    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, sync_playwright() as play:
        folder = Path(name)
        constants = f"STEPS, SECONDS, PAIRS, FOLDER = 10**6, {given.seconds}, {given.pairs}, {str(folder)!r}\n"
        write_notebook(folder / "watching.ipynb", [constants + PREPARE, SHOW, LAST, TIMED])
        for i in range(given.repeats): write_notebook(folder / f"first-{i}.ipynb", [constants + PREPARE, SHOW])
        with jupyterlab(folder) as address:
            browser = play.chromium.launch(executable_path=BROWSER, args=ARGUMENTS.split())
            found = {"first_picture_seconds": first_pictures(browser, address, given.repeats)} | look(browser, address, folder, given)
            version = browser.version
            browser.close()
    blocks = found.pop("blocks")
    wall, cpu, kernel = ({kind: [row[i] for row in blocks if row[0] == (kind == "watched")] for kind in ("watched", "unwatched")} for i in (1, 2, 3))
    return found | {"command": f"python benchmarks/watching.py --pairs {given.pairs} --seconds {given.seconds:g} --repeats {given.repeats}",
                    "watched_by_unwatched": ratio(wall), "watched_by_unwatched_cpu": ratio(cpu), "watched_by_unwatched_kernel_cpu": ratio(kernel),
                    "seconds_a_step": wall, "cpu_seconds_a_step": cpu, "kernel_cpu_seconds_a_step": kernel,
                    "median_seconds_a_step": {k: float(np.median(s)) for k, s in wall.items()},
                    "model": "Codec(192, 8x8x3, gumbel), batch 192; 48 grids on the screen", "cores": os.cpu_count(), "load_before": load,
                    "device": lab._device(), "processor": processor(),
                    "versions": lab._versions() | {n: importlib.metadata.version(n) for n in ("anywidget", "jupyterlab", "ipykernel")} | {"chromium": version}}


def main() -> None:
    """Command line: measure, write the record, and say it in three lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=12, help="pairs of blocks, watched and unwatched")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a block")
    parser.add_argument("--repeats", type=int, default=5, help="presses of Pause, and first pictures")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if BROWSER is None: sys.exit("this benchmark looks through a browser: install chromium")
    record = measure(given)
    from vtd import lab

    lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    for name, what in (("watched_by_unwatched", "takes"), ("watched_by_unwatched_cpu", "keeps its thread busy"),
                       ("watched_by_unwatched_kernel_cpu", "keeps the whole kernel busy")):
        r = record[name]
        print(f"a step that is watched {what} {r['value']:.3f} times as long (95% interval {r['low']:.3f} to {r['high']:.3f})")
    print(f"first picture after {max(record['first_picture_seconds']):.2f} s at most, {record['frames_per_second']:.1f} frames a second")
    print(f"paused after {max(record['pause_seconds']):.2f} s at most, stopped after {record['stop_seconds']:.2f} s")


if __name__ == "__main__":
    main()
