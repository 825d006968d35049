"""A call of the default model's network in a browser, beside torch and onnxruntime in Python: writes results/benchmarks/browser.json.

    python benchmarks/browser.py [--pages 10] [--calls 16] [--browser /usr/bin/chromium]

The browser runs ONNX Runtime Web on one thread, as the front page does; a call is what the reader waits for at each step: the network
(`network`), and the network with the sampler's own arithmetic (`step`). One page goes before, unmeasured. Python has one thread, too.
"""
import argparse
import functools
import gzip
import http.server
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "browser.json"
ASSETS = ROOT / "nbs" / "assets" / "live"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
BAR = 50.0  # milliseconds a call that the front page may take
SCRIPT = """async ({pages, calls}) => {
    const here = new URL("./", location.href), s = await import(new URL("sampler.js", here));
    const told = await (await fetch(new URL("model.json", here))).json(), model = s.unpack(told);
    const start = performance.now(), denoise = await s.openNetwork(told, here), opened = performance.now() - start;
    const network = [], step = [], ids = [], kept = Array(model.length).fill(-1);
    const timed = async (...given) => {
      const before = performance.now(), logits = await denoise(...given);
      network[network.length - 1].push(performance.now() - before);
      return logits;
    };
    for (let seed = 0; seed <= pages; seed++) {
      network.push([]);
      const before = performance.now();
      ids.push(await s.writePage(model, timed, {kept, calls, clock: "overlapping", seed}));
      step.push((performance.now() - before) / calls);
    }
    return {opened, network: network.slice(1), step: step.slice(1), ids};
}"""


def in_browser(folder: Path, given: argparse.Namespace) -> dict:
    """Milliseconds in the browser: to open the network, of every call, and a step of every page; and the ids written."""
    from playwright.sync_api import sync_playwright

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said): pass
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as play:
        program = play.chromium.launch(executable_path=given.browser, args=ARGUMENTS.split())
        page = program.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/page.html")
        told = page.evaluate(SCRIPT, {"pages": given.pages, "calls": given.calls}) | {"browser": program.version}
        program.close()
    server.shutdown()
    return told


def in_python(run, shape: tuple[int, int], given: argparse.Namespace) -> list[list[float]]:
    """Milliseconds of every call of `run(cells, levels)`, page by page; a first page is not counted."""
    import torch

    from vtd.browser import noise_of

    times = []
    for seed in range(given.pages + 1):
        cells, levels = noise_of(seed, *shape)[None], torch.linspace(-8, -2, shape[0])[None]
        times.append([])
        for _ in range(given.calls):
            start = time.perf_counter()
            run(cells, levels)
            times[-1].append(1000 * (time.perf_counter() - start))
    return times[1:]


def summary(pages: list[list[float]]) -> dict:
    """Median of all calls, and the mean over pages with its 95% interval."""
    from vtd import lab

    mean = lab.mean_interval([statistics.fmean(page) for page in pages])
    return {"median": statistics.median(x for page in pages for x in page), "slowest": max(x for page in pages for x in page),
            "mean": {"value": mean.value, "low": mean.low, "high": mean.high, "n": len(pages)}}


def processor() -> str:
    """The name of the processor, as far as the system tells it."""
    try: lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError: lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def measure(given: argparse.Namespace) -> dict:
    """The record: milliseconds a call on three engines, whether pages agree with Python's, and what a reader fetches."""
    import onnxruntime
    import torch

    from vtd import browser, lab
    from vtd.diffusion import GridDiffusion

    torch.set_num_threads(1)
    model, load = GridDiffusion.load(), os.getloadavg()[0]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ASSETS.iterdir(): shutil.copy(file, folder)
        (folder / "page.html").write_text("<!doctype html><title>benchmark</title>")
        start = time.perf_counter()
        browser.export(model, folder)
        exported = time.perf_counter() - start
        session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        (folder / "model.onnx.bin").write_bytes(gzip.compress((folder / "model.onnx").read_bytes(), 9, mtime=0))  # as the site has it
        (folder / "model.onnx").unlink()
        told = in_browser(folder, given)
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.suffix in {".js", ".json", ".bin"}}
    shape = (model.length, model.codebook.shape.cells)
    with torch.no_grad(): torch_times = in_python(model.net, shape, given)
    ort_times = in_python(lambda cells, levels: session.run(None, {"cells": cells.numpy(), "log_snr": levels.numpy()}), shape, given)
    ours = [browser.write_page(model, seed=seed, nfe=given.calls) for seed in range(given.pages + 1)]
    return {"command": f"python benchmarks/browser.py --pages={given.pages} --calls={given.calls}", "pages": given.pages, "calls": given.calls,
            "threads": 1, "cores": os.cpu_count(), "load_before": load, "processor": processor(), "browser": told["browser"],
            "versions": lab._versions() | {"onnxruntime": onnxruntime.__version__, "onnxruntime-web": browser.RUNTIME["version"]},
            "milliseconds": {"browser, network": summary(told["network"]), "browser, step": summary([[x] for x in told["step"]]),
                             "onnxruntime": summary(ort_times), "torch": summary(torch_times)},
            "bar_milliseconds": BAR, "seconds_to_open": told["opened"] / 1000, "seconds_to_export": exported, "bytes": sizes,
            "same_pages": sum(a == b for a, b in zip(told["ids"], ours, strict=True)), "of_pages": len(ours)}


def main() -> None:
    """Command line: measure, write the record, and say it in a few lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--browser", default=next((path for path in map(shutil.which, NAMES) if path), None))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if not given.browser: sys.exit("this benchmark needs a browser: none of " + ", ".join(NAMES) + " is here; name one with --browser")
    record = measure(given)
    from vtd import lab

    lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
    for engine, took in record["milliseconds"].items():
        mean = took["mean"]
        print(f"{engine}: {took['median']:.1f} ms a call (median), mean {mean['value']:.1f} ({mean['low']:.1f} to {mean['high']:.1f})")
    within = record["milliseconds"]["browser, step"]["mean"]["high"] < BAR
    print(f"bar of {BAR:g} ms: {'kept' if within else 'missed'}; {record['same_pages']} of {record['of_pages']} pages are the ones Python writes; "
          f"opened in {record['seconds_to_open']:.1f} s; {sum(record['bytes'].values()) / 1e6:.1f} MB in all")


if __name__ == "__main__":
    main()
