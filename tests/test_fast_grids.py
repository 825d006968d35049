"""The chapter on fast grids: what it measures on small sizes, and verdicts on made-up records."""
import json

import pytest

from vtd import kernels, lab
from vtd.chapters import fast_grids as chapter

SMALL = dict(tokens=[20, 60], places=8, features=5, seeds=[0, 1], repeats=1)


def made_up(eager=4.0, compiled=2.0, roofline=0.8, memory=20.0):
    """A record with one case, whose ratios are these."""
    row = {"kernel": "codeword_posterior", "type": "float32", "pass": "forward", "multiply_adds": 100.0 * roofline, "bytes": 1.0}
    rows = [row | {"side": side, "seconds": seconds, "peak_bytes": size}
            for side, seconds, size in (("ours", 1.0, 10), ("eager", eager, 10 * memory), ("compile", compiled, 50))]
    return {"rows": rows, "ceilings": {"float32": 100.0, "copy": 1e9}}


def verdicts(*records):
    out = chapter.Fast()
    chapter.judge_gpu(out, [case for record in records for case in chapter.recorded(record)])
    return {key: claim["verdict"] for key, claim in out.claims.items()}


def test_every_bar_is_judged_by_the_weakest_case():
    assert set(verdicts(made_up()).values()) == {"holds"}
    for key, weak in (("K1", {"eager": 1.9}), ("K2", {"compiled": 1.1}), ("K3", {"roofline": 0.5}), ("K4", {"memory": 9.0})):
        assert verdicts(made_up(), made_up(**weak)) == dict.fromkeys(("K1", "K2", "K3", "K4"), "holds") | {key: "refuted"}


def test_a_ratio_is_theirs_by_ours():
    case, = chapter.recorded(made_up(eager=3.0))
    assert (case["eager"], case["compile"], case["memory_eager"], case["memory_compile"]) == (3.0, 2.0, 20.0, 5.0)
    assert case["roofline"] == pytest.approx(0.8)


@pytest.mark.parametrize("ratio, says", [((1.5, 1.2, 2.0), "holds"), ((0.8, 0.7, 0.9), "refuted"), ((1.1, 0.9, 1.3), "depends")])
def test_the_cpu_is_judged_with_its_range(ratio, says):
    out = chapter.Fast(numbers={"time_ratio_a_forward_9": lab.Number(*ratio, 3), "time_ratio_b_forward_9": lab.Number(3.0, 2.5, 4.0, 3),
                                "error_a_9": lab.Number(1e-6, 1e-7, 2e-6, 3)})
    chapter.judge_cpu(out, [9])
    assert out.claims["K5"]["verdict"] == says and out.claims["K6"]["verdict"] == "holds"


def test_the_obvious_way_and_the_kernels_agree():
    for kernel, case in chapter.cases(70, 9, 5, -2.5, 3).items():
        if kernel == "gumbel": continue
        assert chapter.error(kernel, case) < 1e-5
        if not case.slopes: continue
        for ours, eager in zip(chapter.call(case.ours, case, True)(), chapter.call(case.eager, case, True)(), strict=True):
            assert (ours - eager).abs().max() < 1e-4 * eager.abs().max()  # float32 rounds by the largest, differently on every processor


def test_the_largest_tensor_of_eager_torch_is_the_table():
    for kernel in ("posterior", "cross_entropy", "nearest"):
        case = chapter.cases(3000, 900, 5, -2.5, 0)[kernel]
        assert chapter.largest(chapter.call(case.eager, case, False), case) == 3000 * 900 * 4
        assert chapter.largest(chapter.call(case.ours, case, False), case) <= 900 * 512 * 4
    assert chapter.largest(lambda: case.inputs[1].T, case) == 0  # a view


def test_calls_take_turns():
    seen = []
    found = chapter.race([lambda: seen.append("a"), lambda: seen.append("b")], 2)
    assert seen == ["a", "b"] * 3 and len(found) == 2 and min(found) > 0


def test_the_whole_experiment_runs_small():
    out = chapter.run(**SMALL)
    assert set(out.claims) == {f"K{i}" for i in range(1, 10)} and out.claims["K6"]["verdict"] == "holds"
    assert out.numbers["tokens_largest"].value == 60 and out.numbers["time_ratio_posterior_forward_largest"] == out.numbers["time_ratio_posterior_forward_60"]
    assert json.loads(json.dumps(out.extra))["gpu"]["commit"]
    again = chapter.run(**SMALL)
    steady = [k for k in out.numbers if not k.startswith(("seconds_", "time_"))]
    assert steady and all(again.numbers[k] == out.numbers[k] for k in steady)


def test_a_training_step_is_judged_by_its_weakest_vocabulary():
    row = lambda V, time, memory: {"tokens": V, "time_table_by_fused": {"median": time, "low": time - 0.1, "high": time + 0.1}, "memory_table_by_fused": memory}  # noqa: E731
    out = chapter.Fast()
    chapter.judge_training(out, [row(10, 0.8, 2.0), row(1000, 3.0, 7.0)])
    assert [out.claims[k]["verdict"] for k in ("K8", "K9")] == ["refuted", "holds"] and out.claims["K8"]["ours"] == "step_time_10"
    assert out.numbers["step_time_largest"].value == 3.0 and out.numbers["step_memory_largest"].value == 7.0


@pytest.mark.parametrize("wrong, says", [({"tokens": [60, 20]}, "increasing sizes"), ({"tokens": []}, "increasing sizes"), ({"seeds": [0]}, "two seeds"),
                                         ({"record": "abacus"}, "no recorded run kernels.abacus.json")])
def test_what_cannot_be_measured_is_refused_in_one_line(wrong, says):
    with pytest.raises(ValueError, match=says) as told: chapter.run(**SMALL | wrong)
    assert "\n" not in str(told.value)


def test_kernels_are_those_of_the_bench():
    assert {c.ours for c in chapter.cases(5, 2, 2, 0.0, 0).values()} >= {kernels.codeword_posterior, kernels.codeword_cross_entropy, kernels.nearest_codeword}
