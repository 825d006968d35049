"""Words bound to roles in one grid, beside torchhd: accuracy and time; writes results/benchmarks/binding.json.

    pip install torch-hd
    python benchmarks/binding.py [--seeds 10] [--threads 2]

All store the same words in the same roles, in vectors of as many real numbers (192, an 8x8x3 grid); FHRR, whose numbers are complex, in
96 of them, and once more in 192. Codes and roles are made beforehand; writing, unbinding and cleaning up are timed, all sides in turns (who
goes first rotates), after one turn that is not counted. Three roles hold 10,000 triples; 6 to 24 roles fewer.
"""
import argparse
import importlib.metadata
import json
import sys
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "binding.json"
CASES = [(3, 36, 10_000), (3, 1000, 10_000), (3, 10_000, 10_000), (6, 1000, 2000), (12, 1000, 2000), (24, 1000, 1000)]  # items, words, sentences
PEERS = {"HRR, pseudo-inverse": ("HRRTensor", 192), "HRR, exact inverse": ("HRRTensor", 192), "MAP": ("MAPTensor", 192),
         "FHRR, as many numbers": ("FHRRTensor", 96), "FHRR, twice as many": ("FHRRTensor", 192)}


def ours(words: int, items: int, seed: int):
    """A function ids `(N, items)` -> ids read, by random spherical codes and unitary roles."""
    from vtd.algebra import Sentence
    from vtd.codes import Codebook

    told = Sentence(Codebook.spherical(words, "8x8x3", seed), range(items), seed)
    return lambda ids: torch.stack(list(told.read_all(told.write(dict(zip(told.roles, ids.unbind(1), strict=True)))).values()), 1)


def theirs(peer: str, words: int, items: int, seed: int):
    """The same by a model of torchhd: bind, add, unbind, and the highest similarity."""
    import torchhd

    kind, numbers = PEERS[peer]
    dice, kind = torch.Generator().manual_seed(seed), getattr(torchhd, kind)
    codes, roles = kind.random(words, numbers, generator=dice), kind.random(items, numbers, generator=dice)
    undo = roles.exact_inverse() if peer == "HRR, exact inverse" else roles.inverse()

    def read(ids: torch.Tensor) -> torch.Tensor:
        held = torchhd.multiset(torchhd.bind(codes[ids], roles))  # (N, numbers)
        found = torchhd.bind(held.unsqueeze(-2), undo)
        return torch.stack([found[:, i].dot_similarity(codes).argmax(-1) for i in range(items)], -1)  # all at once: 1.2 GB for 10,000 words

    return read


def one_case(items: int, words: int, sentences: int, seeds: int) -> dict:
    """Share of fillers and of whole sentences that come back, and seconds, for every side."""
    from vtd import lab

    sides, right, whole, seconds = ["ours", *PEERS], {}, {}, {}
    for seed in range(seeds + 1):  # the first turn is for warming up
        ids = torch.randint(words, (max(1, sentences // seeds), items), generator=torch.Generator().manual_seed(1000 + seed))
        for name in np.roll(sides, seed):
            read = ours(words, items, seed) if name == "ours" else theirs(name, words, items, seed)
            start = perf_counter()
            same = torch.as_tensor(read(ids)).as_subclass(torch.Tensor) == ids
            if not seed: continue
            seconds.setdefault(name, []).append(perf_counter() - start)
            right.setdefault(name, []).append(float(same.double().mean()))
            whole.setdefault(name, []).append(int(same.all(1).sum()))
    count, out = max(1, sentences // seeds) * seeds, {}
    for name in sides:
        share, ratio = lab.proportion(sum(whole[name]), count), np.array(seconds[name]) / np.array(seconds["ours"])
        out[name] = {"fillers": float(np.mean(right[name])), "sentences": share.value, "low": share.low, "high": share.high, "of": count,
                     "seconds": float(np.median(seconds[name])), "time_by_ours": float(np.median(ratio)), "time_by_ours_range": [float(ratio.min()), float(ratio.max())]}
    return out


def main() -> None:
    """Command line: run all cases and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    if find_spec("torchhd") is None: sys.exit("this benchmark needs torchhd: pip install torch-hd")
    if given.seeds < 2: sys.exit("--seeds is 2 or more")
    from vtd import lab
    from vtd.algebra import recovery_theory

    torch.set_num_threads(given.threads)
    record = {"device": lab._device(), "threads": given.threads, "seeds": given.seeds, "versions": lab._versions() | {"torch-hd": importlib.metadata.version("torch-hd")}, "cases": {}}
    for items, words, sentences in CASES:
        record["cases"][f"{items} of {words}"] = found = one_case(items, words, sentences, given.seeds) | {"theory": recovery_theory(items, 192, words)}
        print(f"{items} roles, {words:,} words; theory {found['theory']:.4f}")
        for name in ("ours", *PEERS): print(f"  {name:22} fillers {found[name]['fillers']:.4f}, sentences {found[name]['sentences']:.4f}, {found[name]['time_by_ours']:.2f} times our time", flush=True)
    lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
