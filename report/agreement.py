"""How well diy agrees with PyTorch's forward pass, its automatic differentiation and finite differences, in numbers.

Everything is measured on the network of the report with dropout, in float64, where nothing but rounding may differ.
"""

import torch
from torch import Tensor, nn

import diy
from experiments.circle import MODELS, Protocol, build_network, disk_data, one_hot
from gradcheck import check_gradients


def measure(protocol: Protocol | None = None, samples: int = 10) -> dict[str, float]:
    """Return the largest disagreements.

    Returns:
        parameters: how many numbers the network learns.
        outputs: the largest difference between the two outputs for a batch of `samples`; outputs lie in (-1, 1).
        autograd, finite_differences: the largest error among the gradients of the input and of all parameters, each
            relative to the largest component of that gradient, for the same batch.
        steps: how many steps of SGD a diy network and its PyTorch twin were then trained for.
        weights, losses: the largest difference between the two, over all weights and over the losses of all steps.
    """
    protocol = protocol or Protocol()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(protocol.seed)
        points, labels = disk_data(protocol.train_size)
        points, targets = points.double(), one_hot(labels).double()
        ours, theirs = twins(protocol)
        check = check_gradients(ours, points[:samples], verbose=False)
        record = {
            "parameters": sum(parameter.numel() for parameter in ours.parameters()),
            **against_torch(ours, theirs, points[:samples], targets[:samples]),
            "finite_differences": max(verdict.error for verdict in check.verdicts),
        }
        ours, theirs = twins(protocol)
        return record | side_by_side(ours, theirs, protocol, points, targets)


def twins(protocol: Protocol) -> tuple[diy.Module, nn.Module]:
    """Return the report's network with dropout twice, in diy and in PyTorch, with the same weights in float64."""
    dropout = protocol.dropout if MODELS["diy-dropout"].dropout else None
    ours = build_network("diy", protocol.hidden, dropout).to(torch.float64)
    theirs = build_network("torch", protocol.hidden, dropout).to(torch.float64)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def against_torch(ours: diy.Module, theirs: nn.Module, points: Tensor, targets: Tensor) -> dict[str, float]:
    """Return the largest difference between outputs and, relative, between the gradients of one batch."""
    their_points, criterion = points.clone().requires_grad_(), diy.MSELoss()
    with same_masks():
        their_output = theirs(their_points)
    with same_masks():
        our_output = ours(points)
    nn.functional.mse_loss(their_output, targets).backward()
    criterion(our_output, targets)
    pairs = [(ours.backward(criterion.backward()), their_points.grad)]
    pairs += [(p.grad, q.grad) for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)]
    return {
        "outputs": float((our_output - their_output.detach()).abs().max()),
        "autograd": max(float((got - wanted).abs().max() / wanted.abs().max()) for got, wanted in pairs),
    }


def side_by_side(ours: diy.Module, theirs: nn.Module, protocol: Protocol, points: Tensor, targets: Tensor) -> dict:
    """Train both on the same batches with the same masks; return the number of steps and the largest differences."""
    our_criterion, their_criterion = diy.MSELoss(reduction="sum"), nn.MSELoss(reduction="sum")
    our_optimizer = diy.SGD(ours.parameters(), protocol.lr)
    their_optimizer = torch.optim.SGD(theirs.parameters(), protocol.lr)
    record = {"steps": 0, "weights": 0.0, "losses": 0.0}
    for _ in range(protocol.epochs):
        for batch in torch.randperm(len(points)).split(protocol.batch_size):
            with same_masks():
                our_loss = our_criterion(ours(points[batch]), targets[batch])
            our_optimizer.zero_grad()
            ours.backward(our_criterion.backward())
            our_optimizer.step()
            their_loss = their_criterion(theirs(points[batch]), targets[batch])  # outside: the masks differ every step
            their_optimizer.zero_grad()
            their_loss.backward()
            their_optimizer.step()
            differences = [(p - q.detach()).abs().max() for p, q in zip(ours.parameters(), theirs.parameters())]
            record["steps"] += 1
            record["weights"] = max(record["weights"], float(max(differences)))
            record["losses"] = max(record["losses"], abs(our_loss.item() - their_loss.item()))
    return record


def same_masks():
    """Put the global generator back afterwards, so that whatever comes next draws the same masks again."""
    return torch.random.fork_rng(devices=[])
