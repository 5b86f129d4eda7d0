"""On each device that this machine has, diy computes what PyTorch computes there."""

import pytest
import torch
from torch import nn

import diy

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
"""Ten steps amplify float64's rounding, and a GPU adds in another order each time; a wrong term is 1e-3 and more."""


def points(library, device):
    x, y = torch.randn(2, 100, 2, dtype=torch.float64)
    modules = [library.Linear(2, 25), library.ReLU(), library.Linear(25, 25), library.Sigmoid(), library.Linear(25, 2)]
    return library.Sequential(*modules, library.Tanh()), library.MSELoss(), x.to(device), y.to(device)


def images(library, device):
    x, y = torch.randn(8, 3, 6, 6, dtype=torch.float64), torch.randint(5, (8,))
    modules = [library.Conv2d(3, 4, 3, padding=1), library.ReLU(), library.BatchNorm2d(4), library.MaxPool2d(2)]
    network = library.Sequential(*modules, library.Flatten(), library.Linear(36, 5))
    return network, library.CrossEntropyLoss(), x.to(device), y.to(device)


def trained(library, optimizers, task, kind, device, weights=None):
    torch.manual_seed(0)
    network, criterion, x, y = task(library, device)
    if weights is not None:
        network.load_state_dict(weights)
    network.to(device, torch.float64)
    optimizer, losses = getattr(optimizers, kind)(network.parameters(), lr=0.01), []
    for _ in range(10):
        loss = criterion(network(x), y)
        optimizer.zero_grad()
        if library is diy:
            network.backward(criterion.backward())
        else:
            loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses, network.state_dict()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("task", [points, images])
def test_ten_steps_are_pytorchs(task, kind, device):
    torch.manual_seed(1)
    weights = {name: value.clone() for name, value in task(nn, "cpu")[0].state_dict().items()}
    ours, theirs = (trained(*args, task, kind, device, weights) for args in ((diy, diy), (nn, torch.optim)))
    torch.testing.assert_close(ours[0], theirs[0], **CLOSE)
    torch.testing.assert_close(ours[1], dict(theirs[1]), **CLOSE)
    assert {value.device.type for value in (*ours[0], *ours[1].values())} == {device}


@pytest.mark.parametrize("device", DEVICES)
def test_a_stack_learns_what_its_networks_learn_alone(device):
    networks = [diy.Sequential(diy.Linear(2, 5), diy.ReLU(), diy.Linear(5, 1)).to(device) for _ in range(3)]
    x, y = torch.randn(3, 10, 2, device=device), torch.randn(3, 10, 1, device=device)
    stacked, criterion = diy.stack(networks), diy.MSELoss(stacked=True)
    criterion(stacked(x), y)
    stacked.backward(criterion.backward())
    together = diy.SGD(stacked.parameters(), lr=torch.tensor([0.1, 0.2, 0.3]))
    together.step()
    for k, network in enumerate(networks):
        alone = diy.MSELoss()
        alone(network(x[k]), y[k])
        network.backward(alone.backward())
        diy.SGD(network.parameters(), lr=0.1 * (k + 1)).step()
        torch.testing.assert_close(diy.unstack(stacked)[k].state_dict(), network.state_dict())


@pytest.mark.parametrize("device", DEVICES)
def test_an_infinite_gradient_where_relu_is_off_is_zero(device):
    relu = diy.ReLU()
    relu(torch.tensor([-1.0, 2.0, 0.0], device=device))
    G = torch.tensor([torch.inf, 3.0, torch.nan], device=device)
    assert relu.backward(G).tolist() == [0, 3, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_of_something_else_is_refused(device):
    network, criterion = diy.Sequential(diy.Linear(2, 2), diy.Tanh()).to(device), diy.MSELoss()
    x = torch.randn(5, 2, device=device)
    criterion(2 * network(x), x)
    with pytest.raises(RuntimeError, match="not that of the last output"):
        network.backward(criterion.backward())
