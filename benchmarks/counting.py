"""What a belief by counting costs as evidence grows strong: noisy grids nearly clean, and pages of which some places are shown and others hidden.

    OMP_NUM_THREADS=1 python benchmarks/counting.py [--text FILE] [--pages 16] [--repeats 9]

Kinds of evidence take turns; a ratio is the median over rounds of a belief's time by that of faint evidence in the same round: near 1, strong
evidence costs no more. (Numbers too small for a normal float would make it 4 to 10 on some processors.) Writes results/benchmarks/counting.json.
"""
import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from vtd import lab
from vtd.chains import count_chain
from vtd.text import little_world, text_corpus

OUT = Path(__file__).resolve().parents[1] / "results" / "benchmarks" / "counting.json"


def evidence(ids: torch.Tensor, vocabulary: int) -> dict[str, torch.Tensor]:
    """Log-evidence `(N, L, V)` by kind, the faint one first: of grids at a signal-to-noise ratio, and of pages half hidden as masked diffusion sees them."""
    generator = torch.Generator().manual_seed(0)
    clean, noise = F.one_hot(ids, vocabulary).float(), torch.randn(*ids.shape, vocabulary, generator=generator)
    grids = {f"grids, ratio {snr}": snr * clean + snr**0.5 * noise for snr in (1, 10, 40, 100)}
    shown = torch.rand(ids.shape, generator=generator) < 0.5
    return grids | {"half hidden": -40.0 * (shown[..., None] & (clean == 0))}


def race(chain, ids: torch.Tensor, repeats: int) -> dict:
    """Milliseconds of a belief for each kind of evidence, and by the first kind."""
    kinds, taken = evidence(ids, len(chain.first)), []
    for _ in range(repeats + 1):  # the first warms up
        taken.append({})
        for name, each in kinds.items():
            begun = time.perf_counter()
            chain.context(each)
            taken[-1][name] = time.perf_counter() - begun
    faint, rounds = next(iter(kinds)), taken[1:]
    found = {name: [r[name] / r[faint] for r in rounds] for name in kinds}
    return {name: {"milliseconds": round(1000 * statistics.median(r[name] for r in rounds), 2), "by_faint": {
        "median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3), "high": round(max(ratios), 3)}} for name, ratios in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", help="also on this file: characters, windows of 64, five of which depend on one another")
    parser.add_argument("--pages", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    if given.text and not Path(given.text).is_file(): parser.error(f"no such file: {given.text}")
    if given.pages < 1 or given.repeats < 1: parser.error(f"pages and repeats are 1 or more, not {given.pages} and {given.repeats}")
    world = little_world.corpus(20_000)
    cases = {"little world, pairs": (world, count_chain(world)), "little world, 200 hidden states": (world, count_chain(world, states=200))}
    if given.text: cases["characters, five"] = (text := text_corpus(given.text, "char", 64)), count_chain(text)
    record = {"device": lab._device(), "versions": lab._versions(), "threads": torch.get_num_threads(), "pages": given.pages, "cases": {}}
    for name, (corpus, chain) in cases.items():
        record["cases"][name] = race(chain, torch.as_tensor(corpus.train[: given.pages].copy()), given.repeats)
        for kind, found in record["cases"][name].items(): print(f"{name}: {kind:18} {found['milliseconds']:8} ms, {found['by_faint']['median']}x")
    lab.write_text(OUT, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
