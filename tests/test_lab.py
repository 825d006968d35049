"""The lab: wrong parameters never run, a record is the same by every road, a killed run leaves none."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from vtd import lab

CHAPTER = {
    "md": "# Does it add up?",
    "parameters": "steps:int = 3  # how many\nscale:float = 1.0  # how far\nword: str | None = None  # what to say\n"
    "sizes:list[int] = [1, 2]  # some sizes",
    "work": "import os, signal, time\nif word == 'die':\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    "if word == 'wait':\n    open('waiting', 'w').close()\n    time.sleep(60)\ntotal = sum(sizes) * scale + steps",
    "save": "from vtd import lab\nlab.save('adds-up', dict(steps=steps, scale=scale, word=word, sizes=sizes), seeds=[0, 1],\n"
    "         numbers={'total': lab.Number(total, total - 1, total + 1, 2), 'steps': steps},\n"
    "         claims={'C8': {'verdict': lab.verdict(total, above=1), 'ours': 'total', 'cause': 'arithmetic'}})",
}


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.setenv("VTD_ROOT", str(tmp_path))
    lab.write_chapter(tmp_path, "01_adds_up.ipynb", CHAPTER)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"step": 3}, "no parameter 'step' (did you mean steps?)"),
        ({"steps": "3"}, "steps must be int, not '3'"),
        ({"steps": 3.0}, "steps must be int, not 3.0"),
        ({"steps": True}, "steps must be int, not True"),
        ({"scale": float("inf")}, "scale must be float, not inf"),
        ({"sizes": (1, 2)}, "sizes must be list[int], not (1, 2)"),
        ({"sizes": [1, "2"]}, "sizes must be list[int]"),
    ],
)
def test_a_wrong_parameter_is_refused_with_the_right_ones(book, given, says):
    with pytest.raises(lab.ParameterError) as refused:
        lab.run("adds-up", **given)
    message = str(refused.value)
    assert says in message and "\n" not in message
    assert "steps:int = 3, scale:float = 1.0, word:str | None = None, sizes:list[int] = [1, 2]" in message
    assert not (book / "_runs").exists()


def test_the_command_line_reads_by_declared_type(book):
    assert lab.parse("adds-up", ["steps=8", "scale=1e-3", "word=no", "sizes=[4]"]) == {
        "steps": 8, "scale": 0.001, "word": "no", "sizes": [4],
    }  # fmt: skip
    assert lab.parse("adds-up", ["scale=2", "word=null"]) == {"scale": 2.0, "word": None}
    with pytest.raises(lab.ParameterError, match="steps must be int, not 'many'"):
        lab.parse("adds-up", ["steps=many"])


@pytest.mark.parametrize(
    ("cells", "says"),
    [
        ({"work": "a = 1"}, "has 0 cells tagged"),
        ({"parameters": "a:int = 1", "parameters_too": "b:int = 1"}, "has 2 cells tagged"),
        ({"parameters": "a = 1"}, "holds lines"),
        ({"parameters": "a:dict = {}"}, "cannot be a parameter"),
        ({"parameters": "a:int = 1 + len('x')"}, "not a literal"),
    ],
)
def test_a_chapter_has_one_plain_parameters_cell(book, cells, says):
    lab.write_chapter(book, "02_odd.ipynb", cells)
    with pytest.raises(ValueError, match=says):
        lab.run("odd")


def test_an_unknown_chapter_names_the_nearest(book):
    with pytest.raises(ValueError, match="no chapter 'add-up'; did you mean adds-up"):
        lab.run("add-up")


def test_run_and_plain_papermill_leave_the_same_bytes(book):
    lab.run("adds-up", progress=False, steps=5)
    results = next(book.glob("_runs/adds-up/*/results.json"))
    by_run = results.read_bytes()
    results.unlink()
    command = [sys.executable, "-m", "papermill", str(book / "nbs/chapters/01_adds_up.ipynb"), str(book / "out.ipynb")]
    subprocess.run([*command, "-p", "steps", "5", "--log-level", "ERROR", "--no-progress-bar"], check=True, cwd=book)
    assert next(book.glob("_runs/adds-up/*/results.json")).read_bytes() == by_run
    record = json.loads(by_run)
    assert set(record) == {"chapter", "parameters", "seeds", "device", "versions", "commit", "numbers", "claims"}
    assert record["numbers"]["total"] == {"value": 8.0, "low": 7.0, "high": 9.0, "n": 2}


def test_a_killed_kernel_leaves_no_finished_run_and_the_next_one_works(book):
    with pytest.raises(lab.RunError, match="the kernel died"):
        lab.run("adds-up", progress=False, word="die")
    assert lab.find_run("adds-up", word="die") is None
    story = json.loads(next((book / "_runs/adds-up").glob("*/run.json")).read_text())
    assert story["status"] == "failed" and "\n" not in story["error"]


def test_ctrl_c_ends_the_kernel_and_leaves_no_finished_run(book):
    code = "from vtd import lab; lab.run('adds-up', progress=False, word='wait')"
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 -- a job in the background inherits deaf ears
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ, stderr=subprocess.DEVNULL, preexec_fn=heed)
    waiting, until = book / "nbs/chapters/waiting", time.time() + 60
    while not waiting.exists() and process.poll() is None and time.time() < until:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert lab.find_run("adds-up", word="wait") is None
    assert json.loads(next((book / "_runs/adds-up").glob("*/run.json")).read_text())["status"] == "stopped"


def test_parallel_runs_each_leave_their_record(book):
    lab.write_chapter(book, "02_bad.ipynb", {"parameters": "seed:int = 0", "boom": "raise ValueError('on purpose')"})
    done = lab.run_many([("adds-up", {"steps": 1}), ("adds-up", {"steps": 2}), ("bad", {})], progress=False)
    assert [r.numbers["steps"].value for r in done[:2]] == [1, 2]
    assert "ValueError: on purpose" in str(done[2])


def test_a_record_holds_only_finite_numbers_and_known_verdicts(book):
    for numbers in (
        {"x": float("nan")},
        {"x": lab.Number(1.0)} | {"y": float("inf")},
        {"x": {"value": 1, "low": 2, "high": 3}},
    ):
        with pytest.raises(ValueError, match="must be finite"):
            lab.save("adds-up", {}, seeds=0, numbers=numbers)
    with pytest.raises(ValueError, match="verdict"):
        lab.save("adds-up", {}, seeds=0, numbers={}, claims={"C1": {"verdict": "true"}})
    with pytest.raises(ValueError, match="say what it claims"):
        lab.save("adds-up", {}, seeds=0, numbers={}, claims={"Z1": {"verdict": "holds"}})
    assert not list(book.rglob("results.json"))


def test_published_numbers_reach_table_sentence_and_ledger(book):
    assert lab.answer("adds-up", "{total}") == "*Not yet measured.*"
    lab.save("adds-up", {}, seeds=0, numbers={"total": lab.Number(4.0, 3.0, 5.0, 7)}, claims={
        "C8": {"verdict": "holds", "ours": "total", "cause": "arithmetic"}})  # fmt: skip
    (book / "results").mkdir()
    (lab.run_folder("adds-up", {}) / "results.json").rename(book / "results/adds-up.json")
    assert lab.answer("adds-up", "{total:.1f ci} of {total.n}") == "4.0 (3.0 to 5.0) of 7"
    with pytest.raises(ValueError, match="no 'totl'; it has total"):
        lab.answer("adds-up", "{totl}")
    assert lab.results("select name, n from results").values.tolist() == [["total", 7]]
    table = lab.ledger().set_index("claim")
    assert table.loc["C8", "verdict"] == "holds" and table.loc["C8", "value"] == 4.0
    assert (table.drop("C8")["verdict"] == "not yet measured").all() and len(table) == 35


def test_the_longest_training_speaks_in_the_ledger_and_names_who_differs(book):
    (book / "results").mkdir()
    for stem, steps, verdict in (("adds-up", 10, "holds"), ("adds-up.long", 900, "refuted"), ("adds-up.short", 5, "refuted")):
        lab.save("adds-up", {}, seeds=0, numbers={}, claims={"C8": {"verdict": verdict, "cause": "arithmetic."}})
        found = json.loads((lab.run_folder("adds-up", {}) / "results.json").read_text())
        (book / f"results/{stem}.json").write_text(json.dumps(found | {"parameters": {"steps": steps, "batch": 2, "length": 3}}))
    row = lab.ledger().set_index("claim").loc["C8"]
    assert row["verdict"] == "refuted" and row["cause"] == "arithmetic. Other records differ: adds-up (holds)." and (row["chapter"], row["record"]) == ("adds-up", "adds-up.long")


def test_intervals_cover_at_the_stated_rate():
    import numpy as np

    rng = np.random.default_rng(0)
    for p, n in [(0.02, 44), (0.5, 30), (0.99, 500)]:
        spans = {k: lab.proportion(k, n) for k in range(n + 1)}
        assert np.mean([spans[k].low <= p <= spans[k].high for k in rng.binomial(n, p, 4000)]) >= 0.945
    means = [lab.mean_interval(x) for x in rng.normal(3.0, 2.0, (2000, 5))]
    assert 0.935 <= np.mean([m.low <= 3.0 <= m.high for m in means]) <= 0.965


def test_importing_the_lab_is_light():
    code = "import sys, vtd.lab; print([m for m in ('torch', 'plotly', 'papermill', 'duckdb', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_chapter_answers_from_the_record_that_is_published_with_it(book):
    cells = {"md": CHAPTER["md"], "import": "from vtd import lab", "answer": 'lab.answer("adds-up", "It is {total:.1f}.")',
             **{k: v for k, v in CHAPTER.items() if k != "md"}}
    path = lab.write_chapter(book, "01_adds_up.ipynb", cells)

    def said(): return "".join(next(c for c in json.loads(path.read_text())["cells"] if c["id"] == "answer")["outputs"][0]["data"]["text/markdown"])
    for scale in (1.0, 2.0):  # each time the run itself could only quote what was published before it
        lab.run("adds-up", progress=False, scale=scale)
        lab.publish("adds-up", scale=scale)
        assert said() == f"It is {3 * scale + 3:.1f}."
