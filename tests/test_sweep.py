"""Sweeps: every run finishes exactly once, whoever dies; wrong input ends in one line before anything starts."""

import os
import signal
import subprocess
import sys
import time

import pytest
from machines import disturbed, environment, records, start_vtd, started, write_walk

from vtd import lab, plans, sweep

SLURM = {  # it starts a copy of the job's script here, and ends it by its number
    "sbatch": '#!/bin/sh\ncp "$1" "$0.job"\nsetsid sh "$0.job" >"$0.log" 2>&1 &\necho "Submitted batch job $!"\n',
    "scancel": '#!/bin/sh\nfor job in "$@"; do kill -9 -"$job" 2>/dev/null; done; exit 0\n',
}


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setenv("VTD_ROOT", str(tmp_path))
    write_walk(tmp_path)
    return tmp_path


def vtd(book, *words, **more):
    process = start_vtd(book, *words, **more)
    try: out, err = process.communicate(timeout=60)
    finally: process.kill()
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def plain(book, jobs):
    """The same runs in this process, one after the other: what an undisturbed sweep leaves."""
    folder = book / "plain"
    for job in jobs: plans.perform(job, str(folder), str(book), "unknown")
    return records(folder / "walk")


def test_every_run_finishes_exactly_once_though_workers_and_scheduler_die(book):
    words = ["--seeds", "0:12", "-p", "drift=0,0.5"]
    told = disturbed(book, 24, kills=[4, 9], restarts=[15], seconds=0.15, limit=50, words=words)
    assert told["status"] == 0 and (told["killed"], told["not_killed"], told["not_restarted"]) == (2, 0, 0), told
    jobs = plans.plan("walk", range(12), {"drift": [0.0, 0.5]})
    found = records(book / "_runs/sweeps/walk")
    assert len(jobs) == 24 and found == plain(book, jobs)  # none lost, none half-written, none different
    assert told["rewritten"] == []
    assert 24 <= len(told["begun"]) <= 24 + 2 + 2  # only what a death cut short was begun again
    assert told["err"] == "" and "24 of 24 runs done" in told["out"]


def test_ctrl_c_stops_and_the_same_command_goes_on(book):
    log, folder, words = book / "log", book / "_runs/sweeps/walk", ["sweep", "walk", "--seeds", "0:10", "--workers", 2]
    command = start_vtd(book, *words, WALK_LOG=log, WALK_SECONDS=0.4)
    until = time.monotonic() + 40
    while len(records(folder)) < 3 and time.monotonic() < until: time.sleep(0.02)
    os.killpg(command.pid, signal.SIGINT)  # as a terminal does: to everyone
    said = command.communicate(timeout=20)[1]
    assert command.returncode == 130 and len(said.splitlines()) == 1 and "the same command goes on" in said
    kept = {name: (folder / name).stat().st_mtime_ns for name in records(folder)}
    assert 3 <= len(kept) < 10 and not any(alive(process) for process, _ in started(log))
    again = vtd(book, *words, WALK_LOG=log)
    assert again.returncode == 0 and f"10 of 10 runs done, {len(kept)} of them before" in again.stdout
    assert {name: (folder / name).stat().st_mtime_ns for name in kept} == kept
    assert records(folder) == plain(book, plans.plan("walk", range(10)))


def alive(process: int) -> bool:
    try: return open(f"/proc/{process}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except OSError: return False


def test_what_fails_is_tried_again_or_told_and_stops_no_other(book):
    log = book / "log"
    done = vtd(book, "sweep", "walk", "--seeds", 7, "-p", "kind=plain,die,flaky,pair", "--workers", 2, "--retries", 1, WALK_LOG=log)
    assert done.returncode == 1 and "2 of 4 runs done" in done.stdout
    assert sorted(done.stderr.splitlines()) == [
        "vtd: 1 failed: ValueError: an interval needs two seeds or more",
        "vtd: 1 failed: its worker died each time (killed, or out of memory)",
        "vtd: several seeds for each run: --block 2"]
    kinds = [lab.load_record(f).parameters["kind"] for f in (book / "_runs/sweeps/walk").iterdir()]
    assert sorted(kinds) == ["flaky", "plain"]


def test_slurm_jobs_do_the_work(book):
    """With stand-ins for sbatch and scancel that run a job on this machine; dask-jobqueue and the rest are real."""
    for name, text in SLURM.items():
        (book / name).write_text(text)
        (book / name).chmod(0o755)
    path = {"PATH": f"{book}{os.pathsep}{os.environ['PATH']}", "WALK_LOG": book / "log", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = vtd(book, "sweep", "walk", "--seeds", "0:6", "--block", 2, "-p", "kind=pair", "--cluster", "slurm", "--workers", 1, **path)
    assert done.returncode == 0 and "3 of 3 runs done" in done.stdout, done
    assert done.stderr == ""
    until = time.monotonic() + 10
    while (left := [p for p, _ in started(book / "log") if alive(p)]) and time.monotonic() < until: time.sleep(0.1)
    assert not left, "a job outlived its sweep"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["walk", "-p", "step=3"], "did you mean steps?"),
        (["walk", "-p", "steps=3,many"], "steps must be int, not 'many'"),
        (["walk", "-p", "seeds=[1]"], "is what --seeds gives"),
        (["walk", "-p", "steps"], "write name=value"),
        (["walk", "-p", "steps=1", "-p", "steps=2"], "given twice"),
        (["walk", "--seeds", "5:5"], "are none"),
        (["walk", "--block", "3"], "10 seeds do not part into blocks of 3"),
        (["walk", "--cluster", "slrum"], "local, slurm, kubernetes or an address"),
        (["walk", "--cluster", "tcp://127.0.0.1:9"], "no scheduler answers"),
        (["walk", "--cluster", "tcp://127.0.0.1:9", "--workers", "2"], "workers of its own"),
        (["wolk"], "did you mean walk"),
        (["silent"], "exports no function run"),
        (["seedless"], "nothing to vary"),
        (["deaf"], "does not take the parameter steps"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_starts(book, monkeypatch, capsys, words, says):
    from vtd import cli

    for n, (name, lines) in enumerate({"silent": "seed:int = 0", "seedless": "size:int = 0"}.items()):
        lab.write_chapter(book, f"1{n}_{name}.ipynb", {"parameters": lines})
    lab.write_chapter(book, "20_deaf.ipynb", {"parameters": "seed:int = 0\nsteps:int = 1", "run": "#| export\ndef run(*, seed=0): pass"})
    monkeypatch.setattr(sys, "argv", ["vtd", "sweep", *words])
    monkeypatch.setattr(sweep, "_connect", lambda address, _: connect(address, 0.5), raising=True)
    with pytest.raises(SystemExit) as end: cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and says in said and len(said.splitlines()) == 1
    assert not (book / "_runs").exists()


connect = sweep._connect


def test_kubernetes_says_what_to_install(book):
    if sweep.importlib.util.find_spec("dask_kubernetes"): pytest.skip("dask-kubernetes is installed here")
    with pytest.raises(ValueError, match="pip install 'dask-kubernetes'"): sweep.sweep("walk", [0], cluster="kubernetes")


def test_a_worker_with_other_code_or_no_book_refuses(book):
    job = plans.plan("walk", [0])[0]
    with pytest.raises(RuntimeError, match="does not see the book"): plans.perform(job, str(book), str(book / "none"), "")
    with open(book / "nbs/chapters/01_walk.ipynb") as file: text = file.read()
    with open(book / "nbs/chapters/01_walk.ipynb", "w") as file: file.write(text.replace("gauss(drift, 1)", "gauss(drift, 2)"))
    with pytest.raises(RuntimeError, match="another version"): plans.perform(job, str(book), str(book), "")
    assert not records(book / "walk")


def test_runs_are_asked_like_results_and_only_those_of_todays_code(book):
    grid = plans.parse_grid("walk", ["drift=0,2", "sizes=[1],[1, 2]"])
    folder, jobs = book / "_runs/sweeps", plans.plan("walk", range(4), grid)
    for job in jobs: plans.perform(job, str(folder), str(book), "abc")
    asked = "select (parameters->>'drift')::double as drift, count(*) as n, avg(value) as mean from runs where name = 'distance' group by all order by 1"
    found = lab.results(asked)
    summary = sweep.summary("walk", ["distance"])
    assert found["n"].tolist() == [8, 8] and summary["n"].tolist() == [4] * 4
    assert list(summary.columns) == ["drift", "sizes", "name", "value", "low", "high", "n"]
    values = [lab.load_record(plans.record_path(folder, job)).numbers["distance"].value for job in jobs[:4]]
    row = summary[(summary["drift"] == 0) & (summary["sizes"] == "[1]")].iloc[0]
    assert (row["value"], row["low"]) == (lab.mean_interval(values).value, lab.mean_interval(values).low)
    assert abs(found["mean"][0] - summary[summary["drift"] == 0]["value"].mean()) < 1e-9
    assert len(sweep.table("walk")) == 16 * 2 and lab.results("select * from results").empty
    assert lab.overview() == ["runs     walk: 16 runs"]
    file = book / "nbs/chapters/01_walk.ipynb"
    file.write_text(file.read_text().replace("How far does it walk?", "How far?"))  # other text, other runs
    assert lab.overview() == ["runs     walk: 0 runs (16 more of other code, left out)"] and lab.results("select * from runs").empty
    with pytest.raises(ValueError, match="no runs of today's code"): sweep.table("walk")


def test_results_end_in_one_line_if_the_question_is_wrong(book):
    (book / "_runs/sweeps/walk").mkdir(parents=True)
    (book / "_runs/sweeps/walk/000000000000.json").write_text('{"half": ')
    for question, says in [("select nothing from runs", "is not a record"), ("select nothing", "the query failed")]:
        done = subprocess.run([sys.executable, "-c", "from vtd.cli import main; main()", "results", question], capture_output=True, text=True,
                              env=environment(book))
        assert done.returncode == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
