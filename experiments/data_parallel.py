"""One network trained by several processes: each computes the gradient of its share of every batch.

    torchrun --standalone --nproc-per-node 2 -m experiments.data_parallel

The loss sums over the batch, so that the gradient of the whole batch is the sum over the shares. All processes start
from the same weights and take the same steps, and so their networks remain equal.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m experiments.data_parallel")

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save

import diy
from experiments.circle import build_network, disk_data, error_rate, one_hot
from experiments.commandline import Parser, run_experiment
from experiments.parallel import all_reduce_gradients
from experiments.results import write_atomically

PROG = "python -m experiments.data_parallel"


def main(arguments: list[str] | None = None, rank: int = 0) -> int:
    parser = Parser(PROG, __doc__)
    parser.add_argument("--epochs", type=int, default=100, metavar="N", help="passes over the data (%(default)s)")
    parser.add_argument("--save", type=Path, metavar="PATH", help="write the trained network here")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error(f"argument --epochs: must be at least 1, got {options.epochs}")
    if options.save and not options.save.parent.is_dir():
        parser.error(f"argument --save: there is no folder {options.save.parent}")
    ranks = dist.get_world_size() if dist.is_initialized() else 1

    torch.manual_seed(0)
    points, labels = disk_data(1000)
    points, targets = points.double(), one_hot(labels).double()
    network = build_network("diy").to(torch.float64)
    criterion, optimizer = diy.MSELoss(reduction="sum"), diy.SGD(network.parameters(), lr=0.001)

    for _ in range(options.epochs):
        for batch in torch.randperm(len(points)).split(100):  # the same order on every rank
            share = batch[rank::ranks]
            criterion(network(points[share]), targets[share])
            optimizer.zero_grad()
            network.backward(criterion.backward())
            all_reduce_gradients(network.parameters())
            optimizer.step()

    if rank == 0:
        processes = "1 process" if ranks == 1 else f"{ranks} processes"
        print(f"{processes}, train error {error_rate(network, points, labels):.2%}")
        if options.save:
            write_atomically(options.save, save(network.state_dict()))
    return 0


if __name__ == "__main__":
    run_experiment(PROG, main, "no network was saved")
