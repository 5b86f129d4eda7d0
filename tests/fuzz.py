"""Differential fuzzing: random networks, optimizers and ways to use them, in diy and in PyTorch, side by side.

    python -m tests.fuzz                        a thousand cases
    python -m tests.fuzz --cases 10000 --seed 5000
    python -m tests.fuzz --dtype float32
    python -m tests.fuzz --seed 17 --cases 1 --verbose      one case, with all that it does

A case is known by its seed and dtype. Both sides get the same weights, data, random numbers and disturbances, and take
twenty steps; after each, losses, gradients, parameters, buffers and learning rates are compared. Some networks are
stacks of several, each compared with a PyTorch network that trains alone.

A case is given up, and counted, where rounding decides: where a ReLU is almost at its kink, where a channel's mean is
many times its standard deviation, where weights run away, and where a change of PyTorch's weights by their rounding
takes PyTorch about as far from itself as diy is from it.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m tests.fuzz")

import argparse
import contextlib
import copy
import io
import pickle
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

import diy
from experiments.commandline import run_command

STEPS = 20
DTYPES = {"float64": torch.float64, "float32": torch.float32}
CLOSE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Twenty steps amplify float64's rounding of 1e-16 to less than 1e-11. Of float32's nothing would be left to compare
after twenty; there, diy starts each step from PyTorch's numbers, so that what differs is the rounding of one step: sums
of some hundred numbers, which a normalization may divide by a standard deviation of 1e-2."""

LARGE = 1e3
"""Weights beyond that have run away."""

TRIALS = 10
"""How often PyTorch is run beside itself before a difference is put down to rounding, or is one."""


class Residual:
    """x + f(x), written by hand, as a learner would."""

    def __init__(self, inner: Any):
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return input + self.inner(input)

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient + self.inner.backward(gradient)


class DiyResidual(Residual, diy.Module):
    stackable = True


class TorchResidual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return input + self.inner(input)


class Apart(nn.Module):
    """Networks that see nothing of each other, each with its own part of the input: what a stack must agree with."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, input: Tensor) -> Tensor:
        return torch.stack([network(x) for network, x in zip(self.networks, input, strict=True)])


class UndecidedError(Exception):
    """From here on rounding alone may part the two sides: weights run away, or a ReLU is at its kink."""


class DifferenceError(AssertionError):
    """The two sides disagree; `theirs` and `size` say about which numbers, and by how much."""

    theirs: Tensor | None = None
    size: float = float("inf")


class ReachedError(Exception):
    """A case that is repeated has come to the number in question."""


class Case:
    """One pair of networks and what is done with it; `log` tells it in words, `given_up` why it ended early."""

    def __init__(self, seed: int, dtype: torch.dtype, log: list[str]):
        self.choice = random.Random(seed)
        self.seed, self.dtype, self.log, self.scale, self.given_up = seed, dtype, log, 1.0, ""
        self.number = self.compared = 0
        torch.manual_seed(seed)
        self.images = self.chance(0.3)
        self.stacked = 0 if self.images or self.chance(0.8) else self.choice.choice([1, 2, 3])
        self.samples = self.choice.choice([2, 3, 5, 8] if self.images else [0, 1, 2, 3, 5, 8])
        self.extra = (
            () if self.images or self.stacked or self.chance(0.8) else (3,)
        )  # dimensions between samples and features
        self.networks()
        self.losses()
        self.optimizers()

    def chance(self, probability: float) -> bool:
        return self.choice.random() < probability

    def say(self, what: object) -> None:
        self.log.append(str(what))

    # What is built

    def networks(self) -> None:
        blueprint = self.image_layers() if self.images else self.layers(self.choice.choice([1, 2, 3]))
        if list(build(nn, blueprint).parameters()) == []:
            blueprint.append(("Linear", 2, 2, True))
        built = [(build(diy, blueprint), build(nn, blueprint)) for _ in range(self.stacked or 1)]
        for ours, theirs in built:
            ours.to(self.dtype)
            theirs.to(self.dtype)
            theirs.load_state_dict(ours.state_dict())
        self.ours, self.theirs = built[0]
        if self.stacked:
            self.ours, self.theirs = diy.stack(ours for ours, _ in built), Apart([theirs for _, theirs in built])
            self.say(f"a stack of {self.stacked}")
        self.say(self.ours)

    def layers(self, depth: int, size: int = 2) -> list[tuple]:
        """Return a blueprint from `size` to `size` numbers; the same tag stands for the same object."""
        found: list[tuple] = []
        kinds = ["Linear", "Linear", "Tanh", "ReLU", "Sigmoid", "Dropout", "Twice", "Tied", "In", "Residual"]
        for _ in range(self.choice.randint(1, 4)):
            kind = self.choice.choice(kinds)
            if kind == "Linear":
                width = self.choice.choice([1, 3, 4])
                found += [("Linear", size, width, self.chance(0.8)), (self.choice.choice(["Tanh", "ReLU"]),)]
                found += [("Linear", width, size, self.chance(0.8))]
            elif kind == "Dropout":
                # A stack draws its masks for all networks together, so that they agree with nobody's alone.
                found.append(("Dropout", self.choice.choice([0.0, 1.0] if self.stacked else [0.0, 0.2, 0.5, 1.0])))
            elif kind == "Twice":
                tag = self.choice.random()
                found += [("Shared", tag, ("Linear", size, size, True)), ("Tanh",), ("Shared", tag, None)]
            elif kind == "Tied":
                tag = self.choice.random()
                found += [("Tied", tag, size), ("Tanh",), ("Tied", tag, size)]
            elif kind in ("In", "Residual"):
                found += [(kind, self.layers(depth - 1, size))] if depth else []
            else:
                found.append((kind,))
        return found

    def image_layers(self) -> list[tuple]:
        channels, padding = self.choice.choice([1, 2]), self.choice.choice([0, 1, "same"])
        stride = 1 if padding == "same" else self.choice.choice([1, 2, (1, 2)])
        kernel = self.choice.choice([1, 2, 3, (2, 3)])
        found: list[tuple] = [("Conv2d", 1, channels, kernel, stride, padding)]
        found += [("BatchNorm2d", channels)] if self.chance(0.5) else []
        found += [(self.choice.choice(["ReLU", "Tanh"]),)] + [("Dropout", 0.3)] * self.chance(0.5)
        if self.chance(0.6):
            found.append(("MaxPool2d", 2, self.choice.choice([1, 2]), self.choice.choice([0, 1])))
        shape = build(nn, found).eval()(torch.zeros(2, 1, 7, 6)).flatten(1).shape[1]
        return [*found, ("Flatten",), ("Linear", shape, 2, True)]

    def losses(self) -> None:
        kinds = ["MSELoss"] if self.extra else ["MSELoss", "CrossEntropyLoss"]
        kind, reduction = self.choice.choice(kinds), self.choice.choice(["mean", "sum"])
        self.our_loss = getattr(diy, kind)(reduction=reduction, stacked=bool(self.stacked))
        single = getattr(nn, kind)(reduction=reduction)
        self.their_loss: Callable[[Tensor, Tensor], Tensor] = single
        if self.stacked:
            self.their_loss = lambda P, T: torch.stack([single(p, t) for p, t in zip(P, T, strict=True)])
        # A sum has larger gradients. Steps that are too large amplify rounding tenfold each, and say nothing.
        self.rate = 0.01 if reduction == "mean" else 0.001
        self.say(self.our_loss)

    def optimizers(self) -> None:
        self.kind = self.choice.choice(["SGD", "SGD", "Adam"])
        self.options: dict[str, Any] = {"weight_decay": self.choice.choice([0, 0.01])}
        rates = [self.rate * self.choice.choice([2.0, 0.5]) for _ in range(self.stacked or 1)]
        if self.kind == "Adam":
            # A bias before a BatchNorm2d has no gradient but rounding: with ε = 1e-8, Adam would take steps along it.
            self.options["eps"] = 1e-3
        else:
            self.options["momentum"] = self.choice.choice([0, 0.9])
            if self.options["momentum"]:
                self.options |= self.choice.choice([{}, {"nesterov": True}, {"dampening": 0.3}])
        libraries = (diy, torch.optim) if self.stacked or self.chance(0.8) else (torch.optim, diy)
        ours, theirs = (getattr(library, self.kind) for library in libraries)
        self.our_optimizer = ours(
            self.ours.parameters(),
            torch.tensor(rates, dtype=torch.float64) if self.stacked else rates[0],
            **self.options,
        )
        parameters: Any = self.theirs.parameters()
        if self.stacked:
            parameters = [{"params": n.parameters(), "lr": r} for n, r in zip(self.theirs.networks, rates, strict=True)]
        self.their_optimizer = theirs(parameters, lr=rates[0], **self.options)
        steps = self.choice.choice([[], [], [20], [7], [9, 13]])
        self.schedules = [(schedule(self.our_optimizer, n), schedule(self.their_optimizer, n)) for n in steps]
        self.say(f"{self.our_optimizer.__class__.__module__}.{self.kind}({rates}, {self.options}), schedules {steps}")

    # What is done

    def input(self) -> Tensor:
        networks = (self.stacked,) if self.stacked else ()
        shape = (*networks, self.samples, *((1, 7, 6) if self.images else (*self.extra, 2)))
        x = torch.randn(shape, dtype=self.dtype)
        if self.chance(0.25):
            x = x.round()  # with zeros, where ReLU has its kink, and equal maxima
        return x.mT.contiguous().mT if self.chance(0.2) else x

    def target(self) -> Tensor:
        shape = (*((self.stacked,) if self.stacked else ()), self.samples, *self.extra)
        if isinstance(self.our_loss, diy.CrossEntropyLoss):
            return torch.randint(2, shape)
        return torch.randn(*shape, 2, dtype=self.dtype)

    def on_both(self, action: Callable[[Any], Any]) -> None:
        """Do the same with both networks, with the same random numbers."""
        state = torch.get_rng_state()
        for network in self.ours, self.theirs:
            torch.set_rng_state(state)
            action(network)

    def disturb(self) -> None:
        """Do something between forward and backward that must not matter."""
        other = self.input()
        disturbances: dict[str, Callable[[Any], Any]] = {
            "nothing": lambda net: None,
            "evaluate without gradients": lambda net: torch.no_grad()(net)(other),
            "evaluate under inference mode": lambda net: torch.inference_mode()(net)(other),
            "switch modes": lambda net: net.train(not net.training).train(not net.training),
            "run a copy": lambda net: forward_and_back(copy.deepcopy(net), other),
            "pickle": lambda net: forward_and_back(pickle.loads(pickle.dumps(net)), other),
            "read the state": lambda net: copy.deepcopy(net.state_dict()),
            "call it in another thread": lambda net: in_a_thread(lambda: net(other)),
            "train in another thread": lambda net: in_a_thread(lambda: forward_and_back(net, other)),
        }
        if not self.stacked:
            place = self.choice.randrange(len(self.ours))
            disturbances |= {
                "call a layer": lambda net: net[place](torch.no_grad()(net[:place])(other)),
                "call a slice": lambda net: net[: place + 1](other),
                "train a layer": lambda net: forward_and_back(net[place], torch.no_grad()(net[:place])(other)),
                "train a slice": lambda net: forward_and_back(net[: place + 1], other),
            }
        name = self.choice.choice(list(disturbances))
        self.say(f"    {name}")
        self.on_both(disturbances[name])

    def mishap(self) -> None:
        """Do to a copy something between forward and backward after which backward is right, or refuses."""
        ours, our_loss, theirs = copy.deepcopy((self.ours, self.our_loss, self.theirs))
        ours.zero_grad()
        theirs.zero_grad()
        x, target, other = self.input(), self.target(), self.input()
        state, leaf = torch.get_rng_state(), x.clone().requires_grad_()
        prediction = ours(x)
        torch.set_rng_state(state)
        self.their_loss(theirs(leaf), target).sum().backward()

        def change() -> None:
            for parameter in ours.parameters():
                parameter.add_(0.01)

        def fail() -> None:
            with contextlib.suppress(ValueError):
                ours(other[..., :1].expand(*other.shape[:-1], 17))

        mishaps: dict[str, Callable[[], Any]] = {
            "call it on another batch": lambda: ours(other),
            "call it on a batch that does not fit": fail,
            "the loss of a copy": lambda: our_loss(copy.deepcopy(ours)(other), self.target()),
            "the loss of a guess": lambda: our_loss(torch.zeros_like(prediction), self.target()),
            "overwrite the input": lambda: x.add_(1),
            "overwrite the prediction": lambda: prediction.add_(1),
            "overwrite the target": lambda: target.mul_(0),
            "change the weights": change,
            "move to the same dtype": lambda: ours.to(self.dtype),
        }
        name, stage = self.choice.choice(list(mishaps)), self.choice.randrange(3)
        self.say(f"    a copy: {name}")
        try:
            if stage == 0 and name not in ("overwrite the prediction", "overwrite the target"):  # the loss would see it
                mishaps[name]()
            our_loss(prediction, target)
            if stage == 1:
                mishaps[name]()
            gradient = our_loss.backward()
            if stage == 2:
                mishaps[name]()
            gradient = ours.backward(gradient)
        except RuntimeError as error:
            self.say(f"      {error}")
            return
        self.set_scale(leaf, theirs)
        self.compare("gradient of the input", gradient, leaf.grad)
        for (name, parameter), parts in zip(ours.named_parameters(), self.parameters(theirs), strict=True):
            self.compare(f"gradient of {name}", parameter.grad, self.joined(tuple(p.grad for p in parts)))

    def exchange(self) -> None:
        """Carry states to the other side and back, or go on with copies."""
        way = self.choice.choice(["stack again"] if self.stacked else ["optimizers", "networks", "files"])
        if not self.schedules and self.chance(0.5):
            way = self.choice.choice(["copies", "pickles"])
        self.say(f"  exchange: {way}")
        if way == "optimizers":
            ours, theirs = self.our_optimizer, self.their_optimizer
            self.our_optimizer = type(ours)(self.ours.parameters(), lr=1.0, **self.options)
            self.their_optimizer = type(theirs)(self.theirs.parameters(), lr=1.0, **self.options)
            self.our_optimizer.load_state_dict(theirs.state_dict())
            self.their_optimizer.load_state_dict(ours.state_dict())
            states = [(ours.state_dict(), theirs.state_dict()) for ours, theirs in self.schedules]
            self.schedules = [(schedule(self.our_optimizer, 99), schedule(self.their_optimizer, 99)) for _ in states]
            for (our_state, their_state), (our_schedule, their_schedule) in zip(states, self.schedules, strict=True):
                our_schedule.load_state_dict(their_state)
                their_schedule.load_state_dict(our_state)
        elif way in ("networks", "files"):
            state, theirs = copy.deepcopy((self.ours.state_dict(), self.theirs.state_dict()))
            if way == "files":
                state, theirs = through_a_file(state), through_a_file(theirs)
            for network in self.ours, self.theirs:
                for tensor in network.state_dict().values():
                    tensor.zero_()
            self.ours.load_state_dict(theirs)
            self.theirs.load_state_dict(state)
        elif way == "stack again":
            frozen = [parameter.frozen for parameter in self.ours.parameters()]
            self.ours, before = diy.stack(diy.unstack(self.ours)), self.our_optimizer
            for parameter, was in zip(self.ours.parameters(), frozen, strict=True):
                parameter.requires_grad = not was
            self.our_optimizer = type(before)(self.ours.parameters(), lr=before.lr, **self.options)
            self.our_optimizer.load_state_dict(before.state_dict())
            self.theirs.zero_grad()
        elif way in ("copies", "pickles"):
            twin = copy.deepcopy if way == "copies" else lambda value: pickle.loads(pickle.dumps(value))
            self.ours, self.our_optimizer = twin((self.ours, self.our_optimizer))
            self.theirs, self.their_optimizer = twin((self.theirs, self.their_optimizer))
        for our_schedule, their_schedule in self.schedules:
            our_schedule.optimizer, their_schedule.optimizer = self.our_optimizer, self.their_optimizer

    def freeze(self) -> None:
        pairs = list(zip(self.ours.parameters(), self.parameters(self.theirs), strict=True))
        learned = [self.chance(0.8) for _ in pairs]
        learned[0] = learned[0] or not any(learned)
        for (ours, theirs), value in zip(pairs, learned, strict=True):
            for parameter in ours, *theirs:
                parameter.requires_grad = value
        self.say("  freeze some parameters, release others")

    def parameters(self, theirs: nn.Module) -> list[tuple[Tensor, ...]]:
        """Return PyTorch's parameters that belong to each of ours: one, or one of each network of a stack."""
        return list(zip(*(network.parameters() for network in self.apart(theirs)), strict=True))

    def apart(self, theirs: Any) -> Any:
        return theirs.networks if self.stacked else [theirs]

    def joined(self, parts: tuple[Tensor | None, ...]) -> Tensor | None:
        return torch.stack(parts) if self.stacked and parts[0] is not None else parts[0]

    def step(self, number: int) -> None:
        self.say(f"step {number}")
        torch.default_generator.manual_seed(1000 * self.seed + number)  # on the CPU alone, and so quicker
        if self.chance(0.1):
            self.freeze()
        if self.chance(0.1):
            self.exchange()
        if self.chance(0.1):
            self.say("  change the learning rate by hand")
            for group in self.their_optimizer.param_groups:
                group["lr"] = self.rate
            self.our_optimizer.param_groups[0]["lr"] = (
                torch.full((self.stacked,), self.rate, dtype=torch.float64) if self.stacked else self.rate
            )
        training = self.chance(0.9)
        for network in self.ours, self.theirs:
            network.train(training)
        if self.chance(0.9):
            for owner in (self.our_optimizer, self.their_optimizer) if self.chance(0.5) else (self.ours, self.theirs):
                owner.zero_grad()
        else:
            self.say("  keep the gradients")
        for _ in range(self.choice.choice([1, 1, 1, 2])):
            self.forward_and_backward()
        for (name, ours), theirs in zip(self.ours.named_parameters(), self.parameters(self.theirs), strict=True):
            self.compare(f"gradient of {name}", ours.grad, self.joined(tuple(p.grad for p in theirs)))
        if self.chance(0.2):
            self.mishap()
        if not self.stacked and self.chance(0.1):
            self.say("  clip the gradients")
            for network in self.ours, self.theirs:
                nn.utils.clip_grad_norm_(network.parameters(), 0.1)
        for _ in range(self.choice.choice([1] * 9 + [2])):
            self.our_optimizer.step()
            self.their_optimizer.step()
        for our_schedule, their_schedule in self.schedules:
            our_schedule.step()
            their_schedule.step()
        if not all(parameter.abs().max() < LARGE for parameter in self.theirs.parameters()):
            raise UndecidedError("it diverges")
        self.compare_states()

    def forward_and_backward(self) -> None:
        x, target, state = self.input(), self.target(), torch.get_rng_state()
        leaf, stage = x.clone().requires_grad_(), self.choice.randrange(3)
        our_prediction = self.ours(x)
        torch.set_rng_state(state)
        their_prediction = self.theirs(leaf)
        self.compare("prediction", our_prediction, their_prediction)
        if stage == 0:
            self.disturb()
        our_loss, their_loss = self.our_loss(our_prediction, target), self.their_loss(their_prediction, target)
        self.compare("loss", our_loss, their_loss)
        if stage == 1:
            self.disturb()
        gradient = self.our_loss.backward()
        if stage == 2:
            self.disturb()
        gradient = self.ours.backward(gradient)
        their_loss.sum().backward()
        self.set_scale(leaf, self.theirs)
        self.compare("gradient of the input", gradient, leaf.grad)

    # What is compared

    def set_scale(self, leaf: Tensor, theirs: nn.Module) -> None:
        """Note how large gradients are: what cancels, as for a bias before a BatchNorm2d, leaves rounding of that."""
        gradients = [leaf.grad, *(p.grad for p in theirs.parameters() if p.grad is not None)]
        self.scale = max([1.0, *(gradient.abs().max().item() for gradient in gradients if gradient.numel())])
        if not self.scale < 100 * LARGE:
            raise UndecidedError("it diverges")

    def compare_states(self) -> None:
        ours = self.ours.state_dict()
        theirs = [network.state_dict() for network in self.apart(self.theirs)]
        if list(ours) != list(theirs[0]):
            raise DifferenceError(f"names: {list(ours)}, PyTorch {list(theirs[0])}")
        if not self.stacked and list(self.ours[1:].state_dict()) != list(self.theirs[1:].state_dict()):
            raise DifferenceError(f"names of a slice: {list(self.ours[1:].state_dict())}")
        for name in ours:
            self.compare(name, ours[name], self.joined(tuple(state[name] for state in theirs)))
        rates = [torch.tensor(group["lr"], dtype=torch.float64) for group in self.their_optimizer.param_groups]
        self.compare(
            "learning rate",
            torch.as_tensor(self.our_optimizer.param_groups[0]["lr"], dtype=torch.float64),
            self.joined(tuple(rates)),
        )

    def compare(self, what: str, ours: Tensor | None, theirs: Tensor | None) -> None:
        self.compared += 1
        if ours is None or theirs is None:
            if ours is not theirs:
                raise DifferenceError(f"{what}: {ours}, PyTorch {theirs}")
            return
        theirs, like = theirs.detach(), (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        close = {"rtol": CLOSE[self.dtype], "atol": self.scale * CLOSE[self.dtype], "equal_nan": True}
        if like and torch.allclose(ours, theirs, **close):
            return
        try:  # the same again, slower, and told in words
            torch.testing.assert_close(ours, theirs, **close)
        except AssertionError as error:
            difference = DifferenceError(f"{what}: {error}")
            if like:
                difference.theirs, difference.size = theirs.clone(), largest(ours - theirs)
            raise difference from None

    def watch_kinks(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Give up where rounding decides: a ReLU almost at its kink, almost equal maxima, a channel far from 0."""
        if isinstance(module, nn.ReLU):
            self.watch(inputs[0].detach().abs().flatten())
        elif isinstance(module, nn.MaxPool2d):
            border = module.padding
            framed = nn.functional.pad(inputs[0].detach(), (border,) * 4, value=-LARGE)
            windows = framed.unfold(2, 2, module.stride).unfold(3, 2, module.stride).flatten(4)
            first, second = windows.topk(2).values.unbind(-1)
            self.watch((first - second).flatten())
        elif isinstance(module, nn.BatchNorm2d) and module.training:
            variance, mean = torch.var_mean(inputs[0].detach(), (0, 2, 3))
            count = inputs[0].numel() // len(mean)  # samples, over which the mean's rounding adds up
            if (torch.finfo(self.dtype).eps * count * mean.abs() > 10 * CLOSE[self.dtype] * variance.sqrt()).any():
                raise UndecidedError("a mean is so large that its rounding counts")

    def watch(self, distances: Tensor) -> None:
        # A distance of exactly 0 is one on both sides.
        if ((distances > 0) & (distances < CLOSE[self.dtype] / 10)).any():
            raise UndecidedError("it is at a kink to within rounding")

    def run(self) -> None:
        """Take all steps.

        Raises:
            AssertionError: the two sides differ.
        """
        try:
            with register_module_forward_hook(self.watch_kinks):
                self.steps()
        except UndecidedError as reason:
            self.give_up(reason)
        except DifferenceError as difference:
            own = max(Nudged(self, trial).difference(difference.theirs) for trial in range(TRIALS))
            if not difference.size <= 10 * own:  # diy may round in several places, where the weights do in one
                raise
            self.say(difference)
            self.give_up(f"PyTorch differs from itself by {own:.2g}, diy from it by {difference.size:.2g}")

    def give_up(self, reason: object) -> None:
        self.given_up = str(reason)
        self.say(f"given up: {reason}; rounding alone parts the two sides from here on")

    def steps(self) -> None:
        for self.number in range(STEPS):
            self.step(self.number)
            if self.dtype != torch.float64:
                self.take_over()

    def take_over(self) -> None:
        """Go on with PyTorch's numbers, so that rounding is not amplified from step to step."""
        states = [network.state_dict() for network in self.apart(self.theirs)]
        self.ours.load_state_dict({name: self.joined(tuple(state[name] for state in states)) for name in states[0]})


class Nudged(Case):
    """A case that found a difference, once more: before each step, PyTorch's weights change by their rounding."""

    def __init__(self, case: Case, trial: int):
        super().__init__(case.seed, case.dtype, [])
        self.noise = torch.Generator().manual_seed(trial)
        self.last = case.compared
        self.first_step = 0 if self.dtype == torch.float64 else case.number  # see take_over

    def difference(self, theirs: Tensor | None) -> float:
        """Return how far PyTorch is from itself, from what it had where diy differed: 0 where that is no number."""
        try:
            self.steps()
        except ReachedError as reached:
            if theirs is not None:
                return largest(reached.args[0] - theirs)
        except UndecidedError:
            pass
        return 0.0

    def step(self, number: int) -> None:
        if number >= self.first_step:
            for parameter in self.theirs.parameters():
                noise = torch.randn(parameter.shape, generator=self.noise, dtype=self.dtype)
                parameter.data += torch.finfo(self.dtype).eps * noise
        super().step(number)

    def compare(self, what: str, ours: Tensor | None, theirs: Tensor | None) -> None:
        self.compared += 1
        if self.compared == self.last:
            raise ReachedError(theirs if theirs is None else theirs.detach())


def largest(difference: Tensor) -> float:
    return difference.abs().max().item() if difference.numel() else 0.0


def schedule(optimizer: Any, steps: int) -> Any:
    library = diy if isinstance(optimizer, diy.Optimizer) else torch.optim.lr_scheduler
    return library.CosineAnnealingLR(optimizer, steps, eta_min=1e-3)


def build(library: ModuleType, blueprint: list[tuple], shared: dict[float, Any] | None = None) -> Any:
    built, shared = [], {} if shared is None else shared
    for kind, *arguments in blueprint:
        if kind == "Shared":
            tag, inner = arguments
            if inner is not None:
                shared[tag] = getattr(library, inner[0])(*inner[1:])
            built.append(shared[tag])
        elif kind == "Tied":
            tag, size = arguments
            built.append(library.Linear(size, size))
            built[-1].weight = shared.setdefault(tag, built[-1].weight)
        elif kind in ("In", "Residual"):
            inside = build(library, arguments[0], shared)
            residual = DiyResidual if library is diy else TorchResidual
            built.append(residual(inside) if kind == "Residual" else inside)
        else:
            built.append(getattr(library, kind)(*arguments))
    return library.Sequential(*built)


def forward_and_back(network: Any, x: Tensor) -> None:
    if isinstance(network, diy.Module):
        output = network(x)
        network.backward(torch.ones_like(output))
    else:
        network(x.clone().requires_grad_()).sum().backward()


def in_a_thread(action: Callable[[], Any]) -> None:
    """Do something in another thread, and wait for it: what it draws must not depend on luck."""
    failures: list[Exception] = []

    def caught() -> None:
        try:
            action()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=caught)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Outcome(NamedTuple):
    log: str
    difference: str
    given_up: str


def run(seed: int, dtype: torch.dtype = torch.float64) -> Outcome:
    """Return what a case did, what is different in it, or nothing, and why it was given up, or nothing."""
    log, difference, given_up = [f"seed {seed}, {dtype}"], "", ""
    with torch.random.fork_rng(devices=[]):
        try:
            case = Case(seed, dtype, log)
            case.run()
            given_up = case.given_up
        except Exception as error:
            difference = f"{type(error).__name__}: {error}"
    return Outcome("\n".join(log), difference, given_up)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    parser.add_argument("--dtype", choices=DTYPES, default="float64", help="of the networks (default: float64)")
    parser.add_argument("--verbose", action="store_true", help="tell what each case does")
    options = parser.parse_args(arguments)
    if options.cases < 1 or not 0 <= options.seed < 2**48:
        parser.error(f"expected cases >= 1 and 0 <= seed < 2**48, got {options.cases} and {options.seed}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "Using padding='same' with even kernel lengths")  # it is only slower
    done = found = given_up = 0
    try:
        for seed in range(options.seed, options.seed + options.cases):
            outcome = run(seed, DTYPES[options.dtype])
            done += 1
            found += bool(outcome.difference)
            given_up += bool(outcome.given_up)
            if outcome.difference or options.verbose:
                print(f"{outcome.log}\n{outcome.difference}\n", flush=True)
            elif outcome.given_up:
                print(f"seed {seed} given up: {outcome.given_up}", flush=True)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not break into the line
        echo = "\n" if sys.stderr.isatty() else ""  # the terminal has written ^C
        print(
            f"{echo}python -m tests.fuzz: interrupted after {done} cases: {found} differ, {given_up} were given up",
            file=sys.stderr,
        )
        return 130
    print(f"{found} of {done} cases differ, {given_up} were given up")
    return 1 if found else 0


if __name__ == "__main__":
    run_command("python -m tests.fuzz", main)
