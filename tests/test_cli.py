"""The command as a person meets it: it does what it says, and bad input ends in one line, exit 2, nothing written."""
import json
import os
import subprocess
import sys

import pytest

from vtd import lab
from vtd.text import little_world


def vtd(*words, cwd=None):
    env = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return subprocess.run([sys.executable, "-c", "from vtd.cli import main; main()", *map(str, words)], capture_output=True,
                          text=True, cwd=cwd, env=env)


def test_write_read_round_trip(tmp_path):
    wrote = vtd("write", "--prompt", "the small", "-n", 3, "--save", tmp_path / "page.png")
    assert wrote.returncode == 0, wrote.stderr
    lines = wrote.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("the small ") for line in lines)
    assert vtd("read", tmp_path / "page.png").stdout.splitlines() == lines


def test_train_write_with_own_text(tmp_path):
    (tmp_path / "t.txt").write_text("\n".join(little_world.sample(400)))
    trained = vtd("train", "--text", "t.txt", "--steps", 3, "--width", 32, "--layers", 1, "--length", 8, "--out", "m.st", cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "best of order 1 to 5" in trained.stdout and (tmp_path / "m.st").exists()
    assert vtd("write", "--model", "m.st", "-n", 1, "--nfe", 4, cwd=tmp_path).returncode == 0
    foreign = vtd("read", tmp_path / "none.png", "--model", tmp_path / "m.st")
    assert foreign.returncode == 2 and len(foreign.stderr.splitlines()) == 1


def test_distil_and_write_in_few_calls(tmp_path):
    made = vtd("distil", "--steps", 2, "--batch", 8, "--calls", 4, "--out", "s.st", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    tip = made.stdout.splitlines()[-1].split("vtd write ")[1].split()
    wrote = vtd("write", *tip, "-n", 2, cwd=tmp_path)
    assert wrote.returncode == 0 and len(wrote.stdout.splitlines()) == 2
    before = (tmp_path / "s.st").read_bytes()
    assert vtd("distil", "--steps", 2, "--batch", 8, "--calls", 4, "--out", "s.st", cwd=tmp_path).returncode == 0
    other = vtd("distil", "--steps", 3, "--batch", 8, "--calls", 4, "--out", "s.st", cwd=tmp_path)
    assert other.returncode == 2 and "--again" in other.stderr and len(other.stderr.splitlines()) == 1
    itself = vtd("distil", "s.st", "--out", "s.st", "--again", cwd=tmp_path)
    assert itself.returncode == 2 and "another file" in itself.stderr
    assert (tmp_path / "s.st").read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["s.st"]


@pytest.mark.parametrize("words, says", [
    (["distil", "none.st"], "no model file none.st"), (["distil", "--calls", "1"], "2 or more calls"), (["distil", "--temperature", "0"], "above 0"), (["distil", "--out", "nowhere/s.st"], "a folder that exists"),
    (["train", "--text", "none.txt"], "there is no file"), (["train", "--text", "empty.txt"], "is empty"),
    (["train", "--text", "binary.txt"], "binary"), (["train", "--text", "latin.txt"], "not UTF-8"),
    (["train", "--text", "short.txt"], "need at least"), (["train", "--grid", "2x2x1"], "2x2x1"),
    (["train", "--grid", "eight"], "eight"), (["train", "--device", "cuda:99"], "no device"),
    (["train", "--code", "runes"], "runes"), (["train", "--tokens", "rune", "--text", "short.txt"], "word, char or bpe"),
    (["train", "--steps", "0"], "above 0"), (["write", "--prompt", "the smal fish"], "nearest words are"),
    (["write", "--model", "short.txt"], "not a safetensors file"), (["write", "--device", "tpu"], "no device"),
    (["write", "--save", "page.jpg"], ".png"), (["write", "--length", "99"], "1 to 12"), (["read", "short.txt"], "PNG"),
    (["run", "no-such-chapter"], "no-such-chapter"), (["run", "writing-pages", "-p", "nef=8"], "nfe"),
    (["run", "writing-pages", "-p", "nfe=many"], "nfe")])
def test_bad_input_is_one_line_and_exit_2(tmp_path, words, says):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"\x89PNG\0\0" * 50)
    (tmp_path / "latin.txt").write_bytes("größe ".encode("latin-1") * 500)
    (tmp_path / "short.txt").write_text("far too short")
    before = sorted(p.name for p in tmp_path.iterdir())
    found = vtd(*words, cwd=tmp_path)
    assert found.returncode == 2, (found.returncode, found.stdout, found.stderr)
    assert says in found.stderr and len(found.stderr.strip().splitlines()) == 1, found.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_doctor_tells_what_is_here():
    found = vtd("doctor")
    assert found.returncode == 0 and "default model" in found.stdout and "quarto" in found.stdout


def test_a_run_tells_its_verdicts_or_as_json_its_record(tmp_path, monkeypatch):
    monkeypatch.setenv("VTD_ROOT", str(tmp_path))
    lab.write_chapter(tmp_path, "01_adds_up.ipynb", {
        "md": "# Does it?", "parameters": "a:int = 2  # a number",
        "save": "from vtd import lab\nlab.save('adds-up', dict(a=a), seeds=[0], numbers={'sum': a + 2}, claims={'K0': {'claim': 'it is four', 'verdict': lab.verdict(a + 2, above=4), 'ours': 'sum', 'cause': 'arithmetic'}})"})
    run = vtd("run", "adds-up")
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "✓ K0 holds: it is four. Ours: 4. arithmetic" and "1 number, seeds 0" in run.stdout
    whole = vtd("run", "adds-up", "-p", "a=1", "--json")
    record = json.loads(whole.stdout)
    assert record["numbers"]["sum"]["value"] == 3 and record["claims"]["K0"]["verdict"] == "refuted" and "notebook and record" in whole.stderr
