"""Distillation: what the noise of a page tells of its end, and what blanks do not."""
import math

import pytest
import torch
import torch.nn.functional as F

from vtd.codebook import Codebook
from vtd.diffusion import GridDiffusion, Writing, build
from vtd.distillation import Student, distil, doubt, grid_moments, masked_moments, read
from vtd.peers import build_peer
from vtd.text import Vocabulary, little_world
from vtd.training import TrainingError

NET = {"width": 24, "layers": 1}


@pytest.fixture(scope="module")
def world(): return little_world.corpus(2_000, 100)


def dice(seed): return torch.Generator().manual_seed(seed)


def bits_of(model, found):
    """Bits of the asked tokens of some moments."""
    with torch.no_grad(): logits = read(model, found.shown)
    return F.cross_entropy(logits[found.asked], found.ids[found.asked]).item() / math.log(2)


def test_moments_of_a_page_share_its_end_and_come_at_levels_of_the_schedule(world):
    model = build(world, net=NET)
    (cells, levels), ids, asked = grid_moments(model, 5, 6, 3, 1.0, dice(0))
    assert cells.shape == (15, 12, 192) and levels.shape == ids.shape == (15, 12) and asked.all()
    assert torch.isfinite(levels).all() and (levels == levels[:, :1]).all() and levels.min() >= model.schedule.span[0]
    assert (ids.view(5, 3, 12) == ids.view(5, 3, 12)[:, :1]).all() and len(levels[:, 0].unique()) > 8
    again = grid_moments(model, 5, 6, 3, 1.0, dice(0))
    assert torch.equal(again.ids, ids) and torch.equal(again.shown[0], cells)


def test_pages_of_moments_are_those_that_the_model_writes(world):
    """Ends of a teacher's paths are accepted as often as its pages: they are its pages."""
    model = build(world, net=NET)
    ends = grid_moments(model, 200, 16, 1, 1.0, dice(1)).ids
    pages = model.write_ids(200, Writing(16, "together", 1.0, "second-order", 1.0), seed=2)
    told = [model.net.counted.nats(x).mean().item() for x in (ends, pages)]
    spread = model.net.counted.nats(pages).std().item() / 200**0.5
    assert abs(told[0] - told[1]) < 4 * spread


def test_blanks_are_asked_and_shown_words_stay(world):
    (tokens, hidden), ids, asked = masked_moments(build_peer(world, "masked", net=NET), 5, 6, 3, 1.0, dice(0))
    assert torch.equal(hidden, asked) and torch.equal(hidden, tokens < 0) and asked.any(1).all()
    assert torch.equal(tokens[~hidden], ids[~hidden]) and (ids >= 0).all()


def test_noise_tells_how_a_page_will_end():
    V = 8
    one = GridDiffusion(Vocabulary([chr(97 + i) for i in range(V)], "char"), Codebook.one_hot(V, shape="1x8x1"), 1, torch.full((V,), 1 / V), net=NET)
    found = grid_moments(one, 300, 16, 4, 1.0, dice(5))
    student = distil(one, steps=80, batch=256, progress=False)
    assert bits_of(student, found) < bits_of(one, found) - 0.3


def test_blanks_tell_nothing_that_the_teacher_does_not_know(world):
    """Its teacher is the exact posterior of a counted chain: no student can be surer and right."""
    teacher = build_peer(world, "masked", net=NET)
    found = masked_moments(teacher, 300, 24, 4, 1.0, dice(5))
    student = distil(teacher, steps=80, batch=64, calls=24, progress=False)
    assert bits_of(student, found) > bits_of(teacher, found) - 0.01


def test_few_calls_write_better_after_it_and_the_teacher_is_as_it_was(world):
    teacher = build(world, net=NET)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student, four = distil(teacher, steps=80, batch=64, progress=False), Writing(4, "together", 1.0, "second-order", 1.0, later=0.0)  # the steps that it has learned
    told = [teacher.net.counted.nats(m.write_ids(500, four, seed=3)) for m in (teacher, student)]  # from the same noise
    gain = told[0] - told[1]
    assert gain.mean() > 3 * gain.std() / 500**0.5
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize("kind", ["grid", "masked"])
def test_a_stopped_distillation_goes_on_where_it_was(kind, world, tmp_path):
    teacher = build(world, net=NET) if kind == "grid" else build_peer(world, "masked", net=NET)
    options = {"steps": 6, "batch": 8, "calls": 4, "keep": 2, "progress": False}
    whole = distil(teacher, **options)
    with pytest.raises(KeyboardInterrupt): distil(teacher, **options, checkpoint=tmp_path / "c", every=1, callbacks=[lambda snapshot: snapshot.step == 3])
    again = distil(teacher, **options, checkpoint=tmp_path / "c")
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_student_is_a_model_like_any_other(world, tmp_path):
    teacher = build(world, net=NET | {"self_condition": True})
    student = distil(teacher, steps=2, batch=8, calls=4, keep=2, progress=False)
    assert student.net.previous is None and teacher.net.previous is not None  # it does not feed back
    student.save(tmp_path / "s.safetensors")
    loaded = GridDiffusion.load(tmp_path / "s.safetensors")
    assert loaded.write(3, nfe=2, order="together", overlap=1.0) == student.write(3, nfe=2, order="together", overlap=1.0)


@pytest.mark.parametrize("wrong", [{"calls": 1, "keep": 1}, {"keep": 0}, {"calls": 4, "keep": 5}, {"temperature": 0.0}])
def test_what_makes_no_sense_is_refused(wrong, world):
    with pytest.raises(TrainingError): Student(build(world, net=NET), **wrong)


def test_the_chapter_measures_the_student_of_the_model_that_it_judges(world, capsys):
    from vtd.chapters import writing_pages as chapter

    assert chapter.get_student("student", "mine.safetensors", 0.0) is None and "left out" in capsys.readouterr().out
    assert chapter.get_student("student", "default", 5.0) is None and chapter.get_student("", "default", 0.0) is None
    out = chapter.Written(model=build(world, net=NET))
    chapter.measure_student(out, out.model, pages=6, seeds=[1, 2], exact_pages=4, tried=(2,))
    n = out.numbers
    for temperature in ("1", "07", "05"): assert n[f"few_student_accepted_2_{temperature}"] == n[f"few_teacher_accepted_2_{temperature}"]  # it is its own teacher here
    assert n["few_teacher_evenly_accepted_2_1"].n == 12 and n["few_student_evenly_accepted_2_05"].n == 12 and n["few_exact_evenly_2"].n == 4 and n["few_exact_2"].n == 4 and n["few_student_distinct_2_05"].n == 12


def test_the_shipped_student_is_the_shipped_model_s():
    teacher, student = GridDiffusion.load(), GridDiffusion.load("student")
    assert torch.equal(teacher.codebook.patterns, student.codebook.patterns) and student.vocabulary.tokens == teacher.vocabulary.tokens
    assert "distilled" in student.record and student.record["recipe"] == teacher.record["recipe"]
    found = grid_moments(teacher, 40, 16, 4, 0.5, dice(9))
    assert bits_of(student, found) < bits_of(teacher, found) - 0.2


def test_doubt_is_what_the_noise_leaves(world):
    """One cell a token: a denoiser of pure noise keeps all its doubt, and has none at the end. Doubt falls along a page, of noise as of blanks."""
    V = 8
    one = GridDiffusion(Vocabulary([chr(97 + i) for i in range(V)], "char"), Codebook.one_hot(V, shape="1x8x1"), 1, torch.full((V,), 1 / V), net=NET)
    found = doubt(one, one, pages=300, calls=12)
    assert found.shape == (12,) and abs(found[0] - 3) < 0.2 and found[11] < 0.1
    grids, blanks = build(world, net=NET), build_peer(world, "masked", net=NET)
    found = doubt(grids, grids, pages=100, calls=8)
    assert found[0] > found[4] > found[7] and found[7] < 0.3
    found = doubt(blanks, blanks, pages=100, calls=6)
    assert found[0] > found[5] > 0.2
    with pytest.raises(TrainingError, match="2 or more calls"): doubt(one, one, calls=1)
