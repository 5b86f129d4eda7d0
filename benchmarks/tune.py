"""Choose the recipe of "diy-tuned" on validation data, and write what was tried to tuning.json.

Every round draws 1000 training points with a seed that no evaluation uses, trains on 800 of them and validates on the
other 200; test points are never drawn. The rounds of a recipe train together, as one stack of networks. Of the recipes
whose mean validation error lies within one standard error of the lowest, the one with the fewest steps is chosen; among
several of them, the one with the lower error.

    python -m benchmarks.tune
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m benchmarks.tune")

import math
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import diy
from experiments.circle import Protocol, Recipe, build_network, build_optimizer, data_sets, one_hot, seeds
from experiments.commandline import Parser, run_command
from experiments.results import sealed, write_atomically

PROG = "python -m benchmarks.tune"
ROOT = Path(__file__).resolve().parent.parent
PROTOCOL = Protocol(seed=2**32, train_size=1000, test_size=1)
"""The seed is far from those of evaluations, which count from 0; the one test point is not used."""

TRAINING = 800

RECIPES = [
    Recipe("SGD with momentum", "diy", lr=lr, batch_size=batch_size, momentum=0.9, cosine=True)
    for lr, batch_size in product([0.05, 0.1, 0.2, 0.4], [20, 50, 100])
] + [
    Recipe("Adam", "diy", optimizer="adam", lr=lr, batch_size=batch_size, beta2=beta2, cosine=True)
    for lr, batch_size, beta2 in product([0.002, 0.004, 0.008, 0.016], [20, 50, 100], [0.95, 0.999])
]


def validation_errors(recipe: Recipe, rounds: int) -> Tensor:
    """Train by `recipe` in all rounds at once; return the share of wrong labels in each, on its validation points."""
    all_seeds = [seeds(PROTOCOL, round) for round in range(rounds)]
    sets = [data_sets(PROTOCOL, data)[0] for data, *_ in all_seeds]
    points, labels = (torch.stack(parts) for parts in zip(*sets))  # (R, 1000, 2) and (R, 1000)
    x, target = points[:, :TRAINING], one_hot(labels[:, :TRAINING])
    networks = []
    for _, weights, *_ in all_seeds:
        torch.manual_seed(weights)
        networks.append(build_network("diy", PROTOCOL.hidden))
    orders = [torch.Generator().manual_seed(order) for _, _, order, _ in all_seeds]

    network, criterion = diy.stack(networks), diy.MSELoss(stacked=True)
    optimizer = build_optimizer(network, recipe, recipe.lr)
    steps = PROTOCOL.epochs * math.ceil(TRAINING / recipe.batch_size)
    schedule = diy.CosineAnnealingLR(optimizer, steps)
    rows = torch.arange(rounds)[:, None]
    for _ in range(PROTOCOL.epochs):
        order = torch.stack([torch.randperm(TRAINING, generator=generator) for generator in orders])
        for batch in order.split(recipe.batch_size, 1):
            criterion(network(x[rows, batch]), target[rows, batch])
            optimizer.zero_grad()
            network.backward(criterion.backward())
            optimizer.step()
            schedule.step()
    wrong = network.eval()(points[:, TRAINING:]).argmax(-1) != labels[:, TRAINING:]
    return wrong.double().mean(1)


def main(arguments: list[str] | None = None) -> None:
    parser = Parser(PROG, __doc__)
    parser.add_argument("--rounds", type=int, default=200, metavar="N", help="rounds of each recipe (%(default)s)")
    options = parser.parse_args(arguments)
    if options.rounds < 2:
        parser.error(f"argument --rounds: a standard error needs at least 2, got {options.rounds}")
    tried = []
    for recipe in tqdm(RECIPES, disable=None):
        errors = validation_errors(recipe, options.rounds)
        entry = {key: getattr(recipe, key) for key in ("optimizer", "lr", "batch_size", "momentum", "beta2")}
        tried.append({**entry, "error": errors.mean().item(), "std": errors.std().item()})
    tried.sort(key=lambda entry: entry["error"])
    limit = tried[0]["error"] + tried[0]["std"] / math.sqrt(options.rounds)
    chosen = max((entry for entry in tried if entry["error"] <= limit), key=lambda entry: entry["batch_size"])
    sizes = {"rounds": options.rounds, "training": TRAINING, "validation": 1000 - TRAINING}
    content = {**sizes, "chosen": chosen, "tried": tried}
    for entry in tried:
        recipe = "  ".join(f"{name} {value:<5}" for name, value in entry.items() if name not in ("error", "std"))
        mark = "  <- chosen" if entry is chosen else ""
        print(f"{recipe}  validation error {entry['error']:.2%} ± {entry['std']:.2%}{mark}")
    write_atomically(ROOT / "benchmarks" / "tuning.json", sealed(content, indent=1))


if __name__ == "__main__":
    run_command(PROG, main, "nothing was written")
