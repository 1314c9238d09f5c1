"""What the recipe of `lyra train` reaches on the data that ship, beside the models to beat, over seeds and sizes.

    python -m benchmarks.recipe data     # gb1, mpsa and solvent_accessibility: networks alone, mixed, three together
    python -m benchmarks.recipe sizes    # gb1 from 100 to 10,000 rows: the default recipe beside ridge and sigmoid

Each result is added to benchmarks/results/recipe.json as soon as it is there, and recipe.md is written from it anew.
The test part is read for these tables alone: every choice in a fit is by the training and validation rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from lyra import datasets
from lyra.data import DataOptions, LabelledData, load_labelled
from lyra.data.batches import SequenceDataset
from lyra.metrics import MONITORED, evaluate
from lyra.models.ensemble import SHARED
from lyra.prediction import converter, predict_encoded, predict_replicates
from lyra.settings import Hardware, Recipe
from lyra.training.fitting import fit
from lyra.training.mixing import LYRA, Candidate, Fitted, combine, simpler_models
from lyra.training.networks import Rows, Workshop
from lyra.training.parts import scored
from lyra.training.plan import plan
from lyra.training.rivals import fit_rivals

RESULTS = Path(__file__).parent / "results" / "recipe.json"
SEEDS = 3
SIZES = (100, 200, 300, 1000, 3000, 10_000)
COVERAGES = (0.5, 0.8, 0.9)
GB1 = {"wild_type": datasets.GB1_WILD_TYPE, "offset": datasets.GB1_OFFSET}


def load(name: str, seed: int = 0) -> LabelledData:
    return load_labelled(
        datasets.path(name), DataOptions(seed=seed, **(GB1 if name == "gb1" else {})), lambda text: None
    )


def workshop(data: LabelledData, recipe: Recipe, folder: str) -> Workshop:
    console = Console(quiet=True)
    return Workshop(data, recipe, Hardware("cpu"), Path(folder), console, print, resume=False, first_callbacks=[])


def score(data: LabelledData, fitted: Any, output: Any) -> dict[str, float | None]:
    """The scores of the test part."""
    rows = data.rows("test")
    dataset = SequenceDataset(data.tokens, data.offsets, rows)
    found = predict_encoded(fitted, converter(data.targets, output), dataset, data.targets.task == "token")
    return evaluate(data.targets.task, *scored(data, found, rows), data.targets.positive_index)


def covered(data: LabelledData, fitted: Fitted) -> dict[str, float]:
    """The share of the test part that the intervals cover."""
    rows = data.rows("test")
    members = np.asarray(predict_replicates(fitted.model, SequenceDataset(data.tokens, data.offsets, rows), False))
    values, (calibration,) = np.array(data.values)[rows], fitted.calibrations
    ends = {f"{c:g}": calibration.interval(members, c).T for c in COVERAGES}
    return {name: float(np.mean((low <= values) & (values <= high))) for name, (low, high) in ends.items()}


def on_data(name: str, seed: int, count: int = SEEDS, **options: Any) -> dict[str, Any]:
    """Networks of several seeds, alone, mixed and together; solvent_accessibility by another split for each seed.

    Args:
        count: of networks; options: of `Recipe`.
    """
    data = load(name, seed)
    recipe, said = plan(Recipe(seed=seed, ensemble=count, **options), data)
    main = MONITORED[data.targets.task]
    splits = [Rows(data.rows("train"), data.rows("val"))]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shop, unmixed = workshop(data, recipe, folder), workshop(data, replace(recipe, mix="none"), folder)
        networks = {str(i): shop.train(str(i), splits[0], i, True) for i in range(count)}
    seconds = time.perf_counter() - start
    own = [Candidate(LYRA, each.model, each.output, 0, i) for i, each in enumerate(networks.values())]
    result: dict[str, Any] = {"recipe": said, "seconds": round(seconds / count, 1), "metric": main}
    result["alone"] = [score(data, each.model, each.output)[main] for each in own]
    together = combine(unmixed, splits, own, networks)
    result["together"] = score(data, together.model, together.output)[main]
    if recipe.mix == "validation":
        simple = simpler_models(fit_rivals(data), 0, SHARED)
        each_mixed = [combine(shop, splits, [replace(one, replicate=0), *simple], networks) for one in own]
        result["mixed"] = [score(data, each.model, each.output)[main] for each in each_mixed]
        mixed = combine(shop, splits, [*own, *simple], networks)
        result |= {"mixed together": score(data, mixed.model, mixed.output)[main], "shares": mixed.shares}
        result["covered"] = covered(data, mixed)
    rows = data.rows("test")
    for rival, fitted in fit_rivals(data).items():
        found, true = scored(data, fitted.predict(rows), rows)
        result.setdefault("rivals", {})[rival] = evaluate(data.targets.task, found, true, data.targets.positive_index)[
            main
        ]
    return result


def at_size(rows: int, draw: int, **options: Any) -> dict[str, Any]:
    """The default recipe, but for `options`, on some rows of gb1, of which a tenth is the validation part."""
    data = load("gb1")
    rng = np.random.default_rng([rows, draw])
    learning = rng.permutation(np.flatnonzero(data.parts != "test"))[:rows]
    parts = np.full(len(data.parts), "aside", dtype=object)
    parts[learning], parts[learning[: max(rows // 10, 1)]] = "train", "val"
    parts[data.rows("test")] = "test"
    data = replace(data, parts=parts)
    recipe, said = plan(Recipe(seed=draw, **options), data)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        fitted = fit(workshop(data, recipe, folder), data.rows("train"), data.rows("val"))
    result: dict[str, Any] = {"recipe": said, "seconds": round(time.perf_counter() - start, 1), "shares": fitted.shares}
    result["lyra"] = score(data, fitted.model, fitted.output)["r2"]
    if fitted.calibrations and rows >= 100:
        result["covered"] = covered(data, fitted)
    test = data.rows("test")
    for rival, each in fit_rivals(data).items():
        result.setdefault("rivals", {})[rival] = evaluate(
            "regression", each.predict(test), np.array(data.values)[test]
        )["r2"]
    return result


def keep(key: str, result: dict[str, Any]) -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[key] = result | {"commit": commit.strip(), "machine": platform.machine(), "torch": torch.__version__}
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    RESULTS.with_suffix(".md").write_text(page(known))
    print(key, json.dumps(result), flush=True)


def page(known: dict[str, dict[str, Any]]) -> str:
    """The tables of all that was measured."""
    shown = "{:.4f}".format
    lines = [
        "# What the recipe reaches",
        "By `python -m benchmarks.recipe`, on the test part; each line's commit and machine are in recipe.json.",
        "Networks alone are of a seed each; together is the mean of these; mixed is with ridge, additive and pairwise",
        "sigmoid models by the validation part, or by folds for few rows. Seconds are of one core beside other work.",
        "",
        "| data | score | networks alone | together | each mixed | together, mixed | simpler models "
        "| in the 90 % interval |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for key, each in known.items():
        if "alone" in each:
            rivals = ", ".join(f"{name} {value:.4f}" for name, value in each["rivals"].items())
            mixed = ", ".join(map(shown, each.get("mixed", [])))
            both = shown(each["mixed together"]) if "mixed together" in each else ""
            inside = f"{each['covered']['0.9']:.3f}" if "covered" in each else ""
            alone = ", ".join(map(shown, each["alone"]))
            cells = [key, each["metric"], alone, shown(each["together"]), mixed, both, rivals, inside]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| gb1, rows | default recipe, R2 | simpler models, R2 | in the 90 % interval | seconds |"]
    lines += ["|---|---|---|---|---|"]
    for key, each in known.items():
        if "lyra" in each:
            rivals = ", ".join(f"{name} {value:.3f}" for name, value in each["rivals"].items())
            inside = f"{each['covered']['0.9']:.3f}" if "covered" in each else ""
            lines.append(f"| {key} | {each['lyra']:.3f} | {rivals} | {inside} | {each['seconds']:.0f} |")
    return "\n".join([*lines, "", *means(known)]) + "\n"


def means(known: dict[str, dict[str, Any]]) -> list[str]:
    """A table of means over the draws of each size."""
    lines = ["| gb1, rows | draws | default recipe, mean R2 | simpler models, mean R2 | in the 90 % interval, mean |"]
    lines += ["|---|---|---|---|---|"]
    for rows in SIZES:
        draws = [each for key, each in known.items() if key.startswith(f"{rows} rows, draw")]
        if not draws:
            continue
        rivals = ", ".join(
            f"{name} {np.mean([each['rivals'][name] for each in draws]):.3f}" for name in draws[0]["rivals"]
        )
        inside = [each["covered"]["0.9"] for each in draws if "covered" in each]
        shown = f"{np.mean(inside):.3f}" if inside else ""
        mean = np.mean([each["lyra"] for each in draws])
        lines.append(f"| {rows:,} | {len(draws)} | {mean:.3f} | {rivals} | {shown} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("data", "sizes"))
    parser.add_argument("--only", nargs="*", help="names of data, or sizes")
    parser.add_argument("--draws", nargs="*", type=int, default=list(range(SEEDS)))
    parser.add_argument("--networks", type=int, default=SEEDS, help="of each seed, on data")
    given = parser.parse_args()
    if given.what == "data":
        for name in given.only or ("gb1", "mpsa", "solvent_accessibility"):
            for seed in given.draws:
                several = "" if given.networks == SEEDS else f", {given.networks} networks"
                keep(f"{name}, seed {seed}{several}", on_data(name, seed, given.networks))
    else:
        for rows in map(int, given.only or SIZES):
            for draw in given.draws:
                keep(f"{rows} rows, draw {draw}", at_size(rows, draw))


if __name__ == "__main__":
    main()
