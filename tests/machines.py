"""A Dask cluster whose machines die, and a chapter that costs nothing, for tests/test_sweep.py and benchmarks/sweep.py."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from vtd import lab

WALK = {
    "md": "# How far does it walk?",
    "parameters": "steps:int = 20  # how many\ndrift:float = 0.0  # of each step\nkind:str = 'plain'  # or what goes wrong\n"
    "sizes:list[int] = [1]  # lengths of a step\nseeds:list[int] = [0]  # of the steps",
    "imports": "#| export\nimport os\nimport random\nimport time\nfrom types import SimpleNamespace",
    "run": "#| export\ndef run(*, steps=20, drift=0.0, kind='plain', sizes=(1,), seeds=(0,)):\n"
    "    if 'WALK_LOG' in os.environ:\n        with open(os.environ['WALK_LOG'], 'a') as log: log.write(f'{os.getpid()} {drift} {seeds[0]} {kind}\\n')\n"
    "    time.sleep(float(os.environ.get('WALK_SECONDS', 0)))\n"
    "    if kind == 'pair' and len(seeds) < 2: raise ValueError('an interval needs two seeds or more')\n"
    "    if kind == 'die': os.kill(os.getpid(), 9)\n"
    "    if kind == 'flaky' and open(os.environ['WALK_LOG']).read().count(f' {kind}\\n') < 2: raise OSError('the disk is away')\n"
    "    walks = [sum(random.Random(f'{seed} {i}').choice(sizes) * random.Random(f'{i} {seed}').gauss(drift, 1) for i in range(steps)) for seed in seeds]\n"
    "    return SimpleNamespace(numbers={'distance': sum(walks) / len(walks), 'steps': steps}, "
    "claims={'C8': {'verdict': 'holds', 'ours': 'distance', 'cause': 'it walked'}})",
}


def write_walk(book: Path) -> Path: return lab.write_chapter(book, "01_walk.ipynb", WALK)


def environment(book: Path, **more) -> dict[str, str]:
    return os.environ | {"VTD_ROOT": str(book), "OMP_NUM_THREADS": "1", "COLUMNS": "120"} | {k: str(v) for k, v in more.items()}


def start_vtd(book: Path, *words, **more) -> subprocess.Popen:
    """The command `vtd`, under way. (A job in the background inherits ears that are deaf to Ctrl-C.)"""
    heed = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    return subprocess.Popen([sys.executable, "-c", "from vtd.cli import main; main()", *map(str, words)], text=True, start_new_session=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(book, **more), preexec_fn=heed)


def started(log: Path) -> list[tuple[int, str]]:
    """Process and run of every run that was ever begun, as the chapter itself noted them."""
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split(" ", 1)[0]), line.split(" ", 1)[1]) for line in lines]


def records(folder: Path) -> dict[str, bytes]:
    """Everything in the folder of records, by name; what is half-written would be among it."""
    return {f.name: f.read_bytes() for f in folder.iterdir()} if folder.is_dir() else {}


class Machines:
    """A scheduler and workers in processes of their own. A worker that ends is replaced, as SLURM and Kubernetes do."""

    def __init__(self, workers: int, book: Path, **more):
        with socket.socket() as door:
            door.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{door.getsockname()[1]}"
        self.count, self.env, self.errors = workers, environment(book, **more), open(book / "machines.log", "a")
        self.workers, self.killed = [], 0
        self.scheduler = self._start("dask_scheduler", "--host", self.address, "--no-dashboard", "--no-show")

    def _start(self, what: str, *options) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-m", f"distributed.cli.{what}", *options], env=self.env, stdout=self.errors, stderr=self.errors)

    def supervise(self) -> None:
        """Start the workers that are missing."""
        self.workers = [w for w in self.workers if w.poll() is None]
        while len(self.workers) < self.count:
            self.workers.append(self._start("dask_worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard"))

    def kill_worker(self, process: int) -> bool:
        """SIGKILL to the worker with this process id; False if it is gone."""
        mine = [w for w in self.workers if w.pid == process and w.poll() is None]
        for worker in mine:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
        self.killed += len(mine)
        return bool(mine)

    def restart_scheduler(self) -> None:
        """SIGKILL to the scheduler, which forgets everything, and another at the same address."""
        self.scheduler.kill()
        self.scheduler.wait()
        self.scheduler = self._start("dask_scheduler", "--host", self.address, "--no-dashboard", "--no-show")

    def __enter__(self): return self

    def __exit__(self, *_):
        for process in [*self.workers, self.scheduler]:
            with contextlib.suppress(OSError): process.kill()
            process.wait()
        self.errors.close()


def disturbed(book: Path, runs: int, kills: list[int], restarts: list[int], seconds: float, limit: float, words: list[str]) -> dict:
    """`vtd sweep walk` on machines that die: when so many records are there, a busy worker is killed or the scheduler restarted.

    Tells what happened: how the command ended, its words, the runs begun, and records that were written more than once.
    """
    log, folder, seen, rewritten = book / "walk.log", book / "_runs" / "sweeps" / "walk", {}, set()
    kills, restarts, begun = list(kills), list(restarts), time.monotonic()
    with Machines(2, book, WALK_LOG=log, WALK_SECONDS=seconds) as machines:
        machines.supervise()
        command = start_vtd(book, "sweep", "walk", *words, "--cluster", machines.address)
        try:
            while command.poll() is None:
                assert time.monotonic() - begun < limit, f"{len(seen)} of {runs} after {limit} s: {(book / 'machines.log').read_text()[-2000:]}"
                for file in folder.glob("*.json") if folder.is_dir() else []:
                    stamp = (file.stat().st_ino, file.stat().st_mtime_ns)
                    if seen.setdefault(file.name, stamp) != stamp: rewritten.add(file.name)
                if kills and len(seen) >= kills[0] and (busy := started(log)) and machines.kill_worker(busy[-1][0]): kills.pop(0)
                if restarts and len(seen) >= restarts[0]:
                    machines.restart_scheduler()
                    restarts.pop(0)
                machines.supervise()
                time.sleep(0.02)
        finally:
            command.kill()
        out, err = command.communicate()
    return {"status": command.returncode, "out": out, "err": err, "begun": started(log), "rewritten": sorted(rewritten), "killed": machines.killed,
            "not_killed": len(kills), "not_restarted": len(restarts), "seconds": time.monotonic() - begun}
