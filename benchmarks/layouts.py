"""Layouts beside their peers, k = 5: overlap, words held out, and 49,408 words on two cores; writes results/benchmarks/layouts.json.

    pip install openTSNE pacmap trimap torchdr matplotlib     (torchdr imports matplotlib)
    python benchmarks/layouts.py [--parts sizes held large] [--clip _data/clip/lvis.npy]

Every peer runs at every setting of its grid (GRIDS, written into the record) on the very words that are judged, and its best mean is the one
that ours is held against: that favours the peers. Ours runs at its defaults. Features are MiniLM's of random draws from the 10,000 most
frequent words, and CLIP's of a file if one is given. Each library compiles on some other words before it is timed.
"""
import argparse
import importlib.metadata
import json
import math
import os
import sys
import time
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "results" / "benchmarks" / "layouts.json"
PACKAGES = {"openTSNE": "openTSNE", "PaCMAP": "pacmap", "TriMap": "trimap", "TorchDR": "torchdr", "umap-learn": "umap"}
SEEDS = {36: 10, 200: 10, 1000: 5, 5000: 3}  # a seed of 5,000 words takes minutes
GRIDS = {
    "openTSNE": [{"perplexity": p, "dof": d} for p in (3, 5, 10, 20, 30) for d in (1, 0.7)],
    "PaCMAP": [{"n_neighbors": n, "FP_ratio": f} for n in (3, 5, 10) for f in (2, 4, 8)],
    "TriMap": [{"n_inliers": n, "n_outliers": o} for n in (3, 5, 12) for o in (4, 10)],
    "TorchDR": [{"name": "TSNE", "perplexity": 10}, {"name": "InfoTSNE", "perplexity": 5}, {"name": "InfoTSNE", "perplexity": 10},
                {"name": "UMAP", "n_neighbors": 5, "min_dist": 0.1}, {"name": "UMAP", "n_neighbors": 15, "min_dist": 0.1}],
    "umap-learn": [{"n_neighbors": n, "min_dist": d} for n in (5, 6, 8, 10, 15) for d in (0.001, 0.1)],
}
LARGEST = {"TorchDR TSNE": 1000}  # its time grows with the square of the words: 27 s for 1,000


def lay_out(peer: str, x: np.ndarray, seed: int, **setting) -> np.ndarray:
    """A peer's layout `(V, 2)` of unit vectors, by cosine (of unit vectors, distance and cosine order alike)."""
    if peer == "openTSNE":
        from openTSNE import TSNE

        return np.asarray(TSNE(metric="cosine", random_state=seed, n_jobs=1, **setting).fit(x))
    if peer == "PaCMAP":
        from pacmap import PaCMAP

        return PaCMAP(random_state=seed, apply_pca=False, **setting).fit_transform(x, init="pca")
    if peer == "TriMap":  # it has no seed of its own
        from trimap import TRIMAP

        np.random.seed(seed)
        return TRIMAP(distance="angular", verbose=False, **{**setting, "n_inliers": min(setting["n_inliers"], len(x) - 1)}).fit_transform(x)
    if peer == "TorchDR":
        import torchdr

        return np.asarray(getattr(torchdr, setting.pop("name"))(random_state=seed, device="cpu", **setting).fit_transform(x))
    from umap import UMAP

    return UMAP(metric="cosine", random_state=seed, n_jobs=1, **setting).fit_transform(x)


def fits(peer: str, setting: dict, words: int) -> bool:
    """Whether a setting makes sense for so many words."""
    if words > LARGEST.get(f"{peer} {setting.get('name')}", math.inf): return False
    return 3 * setting.get("perplexity", 0) < words - 1 and setting.get("n_neighbors", 0) < words


def tell(setting: dict) -> str:
    """A setting in one line."""
    return ", ".join(f"{k} {v}" for k, v in setting.items()) or "default"


def draw(source: str, words: int, seed: int, given: argparse.Namespace) -> np.ndarray:
    """Features `(words, D)` of a random draw: MiniLM's of frequent words, or those of the CLIP file."""
    from vtd.features import common_words, feature_file, features

    dice = np.random.default_rng(seed)
    if source == "minilm":
        pool = common_words(10_000)
        return np.asarray(features(pool, "minilm"))[np.sort(dice.choice(len(pool), words, replace=False))]
    x = feature_file(given.clip)[1]
    x = x[np.sort(np.unique(x, axis=0, return_index=True)[1])]
    return x[np.sort(dice.choice(len(x), words, replace=False))]


def unit(x: np.ndarray) -> np.ndarray: return x / np.linalg.norm(x, axis=1, keepdims=True)


def tried(make, score) -> dict:
    """Score and seconds of one layout; a failure says why, in one line."""
    start = time.perf_counter()
    try: y = make()
    except Exception as error: return {"error": (str(error).splitlines() or [type(error).__name__])[0][:200]}
    return {"seconds": time.perf_counter() - start, **score(np.asarray(y, float))}


def summary(runs: list[dict]) -> dict:
    """Means over seeds, with the 95% interval of the overlap."""
    from vtd import lab

    good = [r for r in runs if "error" not in r]
    if len(good) < 2: return {"error": runs[-1].get("error", "too few runs")}
    number = lab.mean_interval([r["overlap"] for r in good])
    out = {k: float(np.mean([r[k] for r in good])) for k in good[0]}
    return out | {"overlap": number.value, "low": number.low, "high": number.high, "seeds": len(good), "all": [r["overlap"] for r in good]}


def one_size(source: str, words: int, given: argparse.Namespace, peers: list[str]) -> dict:
    """Ours and every setting of every peer on the same words, seed by seed."""
    from vtd import lab, layouts

    runs: dict[str, dict[str, list]] = {}
    for seed in range(SEEDS[words] if given.seeds is None else given.seeds):
        x = unit(draw(source, words, seed, given))
        score = lambda y, x=x: {"overlap": layouts.overlap(x, y), "trustworthiness": layouts.trustworthiness(x, y), "continuity": layouts.continuity(x, y)}  # noqa: E731
        jobs = [("direct", {}, lambda x=x, s=seed: layouts.direct(x, seed=s)), ("learned_umap", {}, lambda x=x, s=seed: layouts.learned_umap(x, seed=s))]
        jobs += [(p, s, lambda p=p, s=s, x=x, seed=seed: lay_out(p, x, seed, **s)) for p in peers for s in GRIDS[p] if fits(p, s, words)]
        for name, setting, make in jobs: runs.setdefault(name, {}).setdefault(tell(setting), []).append(tried(make, score))
        print(f"{source} {words} words, seed {seed}: direct {runs['direct']['default'][-1]}", flush=True)
    table = {name: {setting: summary(rows) for setting, rows in grid.items()} for name, grid in runs.items()}
    best = {name: max((r.get("overlap", -1), s) for s, r in grid.items()) for name, grid in table.items()}
    rival = max((best[p][0], p) for p in peers)[1]
    ours, theirs = table["direct"]["default"], table[rival][best[rival][1]]
    lead = lab.mean_interval(np.subtract(ours["all"], theirs["all"]).tolist())
    return {"table": table, "best": {n: {"overlap": o, "setting": s} for n, (o, s) in best.items()}, "best_peer": rival,
            "lead": {"value": lead.value, "low": lead.low, "high": lead.high, "n": lead.n}, "time_by_best_peer": ours["seconds"] / theirs["seconds"]}


def held_places(x: np.ndarray, fit: np.ndarray, new: np.ndarray, seed: int, peers: list[str]):
    """Name, and a function that lays out `x[fit]` and gives the places of both `fit` and `new`."""
    import torch

    from vtd import layouts

    def learned(rounds, steps=0, layout=None):
        model = layouts.LearnedUMAP(seed=seed).fit(x[fit], layout and layout(x[fit], seed=seed))
        return model.places.numpy(), model.place(x[new], rounds, steps)

    def beside(steps=0):
        y = torch.from_numpy(layouts.learned_umap(x[fit], seed=seed))
        page = torch.cat([y, y[(x[new] @ x[fit].T).argmax(1)]]).float()
        if steps: page = layouts.refine(page[None], layouts.nearest(np.r_[x[fit], x[new]])[0], steps=steps, hot=0.3, fixed=torch.arange(len(page)) < len(y))[0]
        return y.numpy(), page[len(y):].numpy()

    def opentsne(perplexity):
        from openTSNE import TSNE

        y = TSNE(perplexity=perplexity, metric="cosine", random_state=seed, n_jobs=1).fit(x[fit])
        return np.asarray(y), np.asarray(y.transform(x[new]))

    yield "learned_umap, each alone", lambda: learned(1)
    yield "learned_umap, in 10 rounds", lambda: learned(10)
    yield "learned_umap, in 10 rounds and 300 steps", lambda: learned(10, 300)
    yield "learned placing on direct, in 10 rounds and 300 steps", lambda: learned(10, 300, layouts.direct)
    yield "control: on the nearest fitted word", lambda: beside()
    yield "control: on the nearest fitted word, then 300 steps", lambda: beside(300)
    if "openTSNE" in peers:
        for p in (5, 10, 30, 50): yield f"openTSNE transform, perplexity {p}", lambda p=p: opentsne(p)
    for n in (5, 15): yield f"umap-learn transform, n_neighbors {n}", lambda n=n: layouts.umap(x[fit], seed=seed, neighbours=n, new=x[new])


def held_out(given: argparse.Namespace, peers: list[str], words: int = 5000) -> dict:
    """Half of the words are kept from fitting; overlap of the other half on the whole page, and among fitted words only."""
    from vtd import lab, layouts

    runs: dict[str, list] = {}
    for seed in range(3 if given.seeds is None else given.seeds):
        x = unit(draw("minilm", words, seed, given))
        order = np.random.default_rng(seed).permutation(words)
        fit, new = np.sort(order[words // 2:]), np.sort(order[:words // 2])
        for name, make in held_places(x, fit, new, seed, peers):
            start = time.perf_counter()
            page = np.zeros((words, 2))
            page[fit], page[new] = make()
            seconds, seen = time.perf_counter() - start, layouts.blame(x, page)
            runs.setdefault(name, []).append({
                "overlap": float(seen.kept[new].mean()), "seconds": seconds, "fitted_words": layouts.overlap(x[fit], page[fit]),
                "fitted_words_on_the_whole_page": float(seen.kept[fit].mean()), "among_fitted": layouts.placed_overlap(x[fit], page[fit], x[new], page[new])})
            print(f"held out, seed {seed}: {name} {runs[name][-1]}", flush=True)
    among = {n: lab.mean_interval([r["among_fitted"] for r in rows]) for n, rows in runs.items()}
    return {n: summary(rows) | {"among_fitted_low": among[n].low, "among_fitted_high": among[n].high} for n, rows in runs.items()}


def large(given: argparse.Namespace) -> dict:
    """49,408 words: umap-learn on all cores (no seed, which would keep it to one), and ours; seconds with and without compiling."""
    import torch

    from vtd import layouts
    from vtd.features import common_words, features

    x, out = unit(np.asarray(features(common_words(49_408), "minilm"))), {"threads": torch.get_num_threads()}
    start = time.perf_counter()
    layouts.umap(x[:3000], seed=None, n_epochs=20)
    out["umap_compile_seconds"] = time.perf_counter() - start
    true = layouts.nearest(x)[0]
    jobs = {"direct": lambda: layouts.direct(x), "learned_umap": lambda: layouts.learned_umap(x),
            **{f"umap-learn, n_neighbors {n}": lambda n=n: layouts.umap(x, seed=None, neighbours=n) for n in (5, 15)}}
    for turn in range(2):
        for name in list(jobs)[::1 if turn % 2 else -1]:
            start = time.perf_counter()
            y = jobs[name]()
            seconds = time.perf_counter() - start
            drawn = layouts.page_nearest(y)
            kept = float((true[:, :, None] == drawn[:, None, :]).any(2).mean())
            out.setdefault(name, []).append({"seconds": seconds, "overlap": kept, "load": os.getloadavg()[0]})
            print(f"49,408 words: {name} {out[name][-1]}", flush=True)
    return out


def main() -> None:
    """Command line: run the parts, keep what is measured after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["sizes", "held", "large"], choices=["sizes", "held", "large"])
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SEEDS), choices=list(SEEDS))
    parser.add_argument("--seeds", type=int, help="seeds for every size (2 or more); without it as many as SEEDS says")
    parser.add_argument("--clip", type=Path, help="a file of CLIP features with its names beside it")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    missing = [name for name, package in PACKAGES.items() if find_spec(package) is None]
    if missing: print(f"not installed, so not measured: {', '.join(missing)}")
    peers = [name for name in PACKAGES if name not in missing]
    if "umap-learn" in missing: sys.exit("this benchmark needs umap-learn: pip install 'vtd[umap]'")
    from vtd import lab

    record = json.loads(given.out.read_text()) if given.out.is_file() else {}
    record |= {"grids": {p: [tell(s) for s in GRIDS[p]] for p in peers}, "not_installed": missing, "cores": os.cpu_count(), "device": lab._device(),
               "versions": lab._versions() | {p: importlib.metadata.version(p) for p in peers}}
    save = lambda: lab.write_text(given.out, json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n")  # noqa: E731
    if "sizes" in given.parts:
        dice = np.random.default_rng(0).standard_normal((100, 50)).astype(np.float32)
        for p in peers: lay_out(p, unit(dice), 0, **GRIDS[p][0])  # compile
        for words in given.sizes:
            for source in ["minilm"] + ["clip"] * (given.clip is not None and words <= 1000):
                record[f"{source} {words}"] = found = one_size(source, words, given, peers)
                save()
                print(f"{source} {words}: direct leads {found['best_peer']} by {found['lead']}, in {found['time_by_best_peer']:.2f} times its time", flush=True)
    if "held" in given.parts:
        record["held out"] = held_out(given, peers)
        save()
    if "large" in given.parts:
        record["49408"] = large(given)
        save()


if __name__ == "__main__":
    main()
