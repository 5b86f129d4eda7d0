"""Differential fuzzing: random networks, optimizers and ways to use them, in diy and in PyTorch, side by side.

    python -m tests.fuzz                        a thousand cases
    python -m tests.fuzz --cases 10000 --seed 5000
    python -m tests.fuzz --seed 17 --cases 1 --verbose      one case, with all that it does

A case is known by its seed alone. Both sides get the same weights, data, random numbers and disturbances, and take
twenty steps in float64; after each, losses, gradients and parameters are compared.
"""

import argparse
import copy
import pickle
import random
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import diy

STEPS = 20
CLOSE = {"rtol": 1e-6, "atol": 1e-8}
"""Rounding of 1e-16 is amplified by twenty steps, in which a ReLU may be at its kink to within some 1e-10."""


LARGE = 1e3
"""Weights beyond that have run away."""


class DiyResidual(diy.Module):
    """x + f(x), written by hand, as a learner would."""

    def __init__(self, inner: diy.Module):
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return input + self.inner(input)

    def backward(self, gradient: Tensor) -> Tensor:
        return gradient + self.inner.backward(gradient)


class TorchResidual(nn.Module):
    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, input: Tensor) -> Tensor:
        return input + self.inner(input)


class DivergedError(Exception):
    """The weights run away."""


class DifferenceError(AssertionError):
    """The two sides disagree."""


class Case:
    """One pair of networks and what is done with it; `log` tells it in words."""

    def __init__(self, seed: int):
        self.choice = random.Random(seed)
        self.seed, self.log, self.scale = seed, [f"seed {seed}"], 1.0
        torch.manual_seed(seed)
        self.images = self.choice.random() < 0.3
        self.samples = self.choice.choice([1, 2, 3, 5, 8])
        if self.images:
            self.samples = max(2, self.samples)
        blueprint = self.image_layers() if self.images else self.layers(self.choice.choice([1, 2, 3]))
        self.ours, self.theirs = self.build(diy, blueprint, {}).double(), self.build(nn, blueprint, {}).double()
        if not self.images and list(self.theirs.parameters()) == []:
            blueprint.append(("Linear", 2, 2, True))
            self.ours, self.theirs = self.build(diy, blueprint, {}).double(), self.build(nn, blueprint, {}).double()
        self.theirs.load_state_dict(self.ours.state_dict())
        self.say(self.ours)
        self.losses()
        self.optimizers()

    def say(self, what: object) -> None:
        self.log.append(str(what))

    # What is built

    def layers(self, depth: int, size: int = 2) -> list[tuple]:
        """Return a blueprint from `size` to `size` numbers; the same tag stands for the same object."""
        found: list[tuple] = []
        for _ in range(self.choice.randint(1, 4)):
            kind = self.choice.choice(
                ["Linear", "Linear", "Tanh", "ReLU", "Sigmoid", "Dropout", "Twice", "In", "Residual"]
            )
            if kind == "Linear":
                width = self.choice.choice([1, 3, 4])
                found += [("Linear", size, width, self.choice.random() < 0.8), (self.choice.choice(["Tanh", "ReLU"]),)]
                found += [("Linear", width, size, self.choice.random() < 0.8)]
            elif kind == "Dropout":
                found.append(("Dropout", self.choice.choice([0.0, 0.2, 0.5, 1.0])))
            elif kind == "Twice":
                tag = self.choice.random()
                found += [("Shared", tag, ("Linear", size, size, True)), ("Tanh",), ("Shared", tag, None)]
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
        found += [("BatchNorm2d", channels)] if self.choice.random() < 0.5 else []
        found += [(self.choice.choice(["ReLU", "Tanh"]),)] + [("Dropout", 0.3)] * (self.choice.random() < 0.5)
        found += [("MaxPool2d", 2, self.choice.choice([1, 2]), self.choice.choice([0, 1]))] * (
            self.choice.random() < 0.6
        )
        shape = self.build(nn, found, {}).eval()(torch.zeros(2, 1, 7, 6)).flatten(1).shape[1]
        return [*found, ("Flatten",), ("Linear", shape, 2, True)]

    def build(self, library: ModuleType, blueprint: list[tuple], shared: dict[float, Any]) -> Any:
        built = []
        for kind, *arguments in blueprint:
            if kind == "Shared":
                tag, inner = arguments
                if inner is not None:
                    shared[tag] = getattr(library, inner[0])(*inner[1:])
                built.append(shared[tag])
            elif kind in ("In", "Residual"):
                inside = self.build(library, arguments[0], shared)
                residual = DiyResidual if library is diy else TorchResidual
                built.append(residual(inside) if kind == "Residual" else inside)
            else:
                built.append(getattr(library, kind)(*arguments))
        return library.Sequential(*built)

    def losses(self) -> None:
        kind, reduction = self.choice.choice(["MSELoss", "CrossEntropyLoss"]), self.choice.choice(["mean", "sum"])
        self.our_loss, self.their_loss = (getattr(m, kind)(reduction=reduction) for m in (diy, nn))
        # A sum has larger gradients. Steps that are too large amplify rounding tenfold each, and say nothing.
        self.rate = 0.01 if reduction == "mean" else 0.001
        self.say(self.our_loss)

    def optimizers(self) -> None:
        kind = self.choice.choice(["SGD", "SGD", "Adam"])
        self.options: dict[str, Any] = {
            "lr": self.rate * self.choice.choice([2.0, 0.5]),
            "weight_decay": self.choice.choice([0, 0.01]),
        }
        if kind == "Adam":
            # A bias before a BatchNorm2d has no gradient but rounding: with ε = 1e-8, Adam would take steps along it.
            self.options["eps"] = 1e-3
        else:
            self.options["momentum"] = self.choice.choice([0, 0.9])
            if self.options["momentum"]:
                self.options |= self.choice.choice([{}, {"nesterov": True}, {"dampening": 0.3}])
        self.kind = kind
        self.ours_opt = getattr(diy, kind)(self.ours.parameters(), **self.options)
        self.theirs_opt = getattr(torch.optim, kind)(self.theirs.parameters(), **self.options)
        self.schedules: list[tuple[Any, Any]] = []
        for steps in self.choice.choice([[], [], [20], [7], [9, 13]]):
            theirs = torch.optim.lr_scheduler.CosineAnnealingLR(self.theirs_opt, steps, eta_min=1e-3)
            self.schedules.append((diy.CosineAnnealingLR(self.ours_opt, steps, eta_min=1e-3), theirs))
        self.say(f"{kind}({self.options}), {len(self.schedules)} schedules")

    # What is done

    def input(self) -> Tensor:
        shape = (self.samples, 1, 7, 6) if self.images else (self.samples, 2)
        return torch.randn(shape, dtype=torch.float64)

    def on_both(self, seed: int, action: Callable[[Any], Any]) -> None:
        for network in self.ours, self.theirs:
            torch.manual_seed(seed)
            action(network)

    def disturb(self, seed: int) -> None:
        """Do something between forward and backward that must not matter."""
        other, length = self.input(), len(self.ours.layers)
        place = self.choice.randrange(length)
        name, action = self.choice.choice(
            [
                ("nothing", lambda net: None),
                ("call the first layer", lambda net: net[0](other)),
                ("call a slice", lambda net: net[: place + 1](other)),
                ("evaluate without gradients", lambda net: torch.no_grad()(net)(other)),
                ("evaluate under inference mode", lambda net: torch.inference_mode()(net)(other)),
                ("switch modes", lambda net: net.eval().train()),
                ("run a copy", lambda net: copy.deepcopy(net)(other)),
                ("pickle", lambda net: pickle.loads(pickle.dumps(net))(other)),
                ("read and load the state", lambda net: copy.deepcopy(net.state_dict())),
            ]
        )
        self.say(f"    {name}")
        self.on_both(seed, action)

    def exchange(self) -> None:
        """Carry states to the other side and back, or go on with copies."""
        way = self.choice.choice(["no", "no", "optimizers", "networks", "copies", "pickles"])
        if way == "optimizers":
            ours = getattr(diy, self.kind)(self.ours.parameters(), **self.options)
            theirs = getattr(torch.optim, self.kind)(self.theirs.parameters(), **self.options)
            ours.load_state_dict(self.theirs_opt.state_dict())
            theirs.load_state_dict(self.ours_opt.state_dict())
            for our_schedule, their_schedule in self.schedules:
                state = our_schedule.state_dict()
                our_schedule.load_state_dict(their_schedule.state_dict())
                their_schedule.load_state_dict(state)
                our_schedule.optimizer, their_schedule.optimizer = ours, theirs
            self.ours_opt, self.theirs_opt = ours, theirs
        elif way == "networks":
            state = copy.deepcopy(self.ours.state_dict())
            self.ours.load_state_dict(self.theirs.state_dict())
            self.theirs.load_state_dict(state)
        elif way == "copies" and not self.schedules:
            self.ours, self.ours_opt = copy.deepcopy((self.ours, self.ours_opt))
            self.theirs, self.theirs_opt = copy.deepcopy((self.theirs, self.theirs_opt))
        elif way == "pickles" and not self.schedules:
            self.ours, self.ours_opt = pickle.loads(pickle.dumps((self.ours, self.ours_opt)))
            self.theirs, self.theirs_opt = pickle.loads(pickle.dumps((self.theirs, self.theirs_opt)))
        if way != "no":
            self.say(f"  exchange {way}")

    def freeze(self) -> None:
        for ours, theirs in zip(self.ours.parameters(), self.theirs.parameters(), strict=True):
            learned = self.choice.random() < 0.8
            ours.requires_grad = theirs.requires_grad = learned
        if not any(parameter.requires_grad for parameter in self.theirs.parameters()):
            next(self.ours.parameters()).requires_grad = next(self.theirs.parameters()).requires_grad = True
        self.say("  freeze some parameters, release others")

    def step(self, number: int) -> None:
        self.say(f"step {number}")
        if self.choice.random() < 0.1:
            self.freeze()
        if self.choice.random() < 0.1:
            self.exchange()
        if self.choice.random() < 0.1:
            for optimizer in self.ours_opt, self.theirs_opt:
                optimizer.param_groups[0]["lr"] = self.rate
            self.say("  change the learning rate by hand")
        self.ours_opt.zero_grad(), self.theirs_opt.zero_grad()
        for part in range(self.choice.choice([1, 1, 1, 2])):
            seed = 1000 * self.seed + 10 * number + part
            x = self.input()
            target = torch.randn(self.samples, 2, dtype=torch.float64)
            if isinstance(self.our_loss, diy.CrossEntropyLoss):
                target = torch.randint(2, (self.samples,))
            torch.manual_seed(seed)
            our_loss = self.our_loss(self.ours(x), target)
            torch.manual_seed(seed)
            leaf = x.clone().requires_grad_()
            their_loss = self.their_loss(self.theirs(leaf), target)
            self.disturb(seed + 5)
            gradient = self.ours.backward(self.our_loss.backward())
            their_loss.backward()
            gradients = [leaf.grad, *(p.grad for p in self.theirs.parameters() if p.grad is not None)]
            # What cancels, as the gradient of a bias before a BatchNorm2d, leaves rounding of the size of the others.
            self.scale = max(1.0, *(gradient.abs().max().item() for gradient in gradients))
            if not self.scale < 100 * LARGE:
                raise DivergedError
            self.compare("loss", our_loss, their_loss)
            self.compare("gradient of the input", gradient, leaf.grad)
        for (name, ours), theirs in zip(self.ours.named_parameters(), self.theirs.parameters(), strict=True):
            self.compare(f"gradient of {name}", ours.grad, theirs.grad)
        self.ours_opt.step(), self.theirs_opt.step()
        for our_schedule, their_schedule in self.schedules:
            our_schedule.step(), their_schedule.step()
        if not all(parameter.abs().max() < LARGE for parameter in self.theirs.parameters()):
            raise DivergedError
        ours, theirs = self.ours.state_dict(), self.theirs.state_dict()
        if list(ours) != list(theirs):
            raise DifferenceError(f"names: {list(ours)}, PyTorch {list(theirs)}")
        for name in ours:
            self.compare(name, ours[name], theirs[name])
        self.compare(
            "learning rate", *(torch.tensor(o.param_groups[0]["lr"]) for o in (self.ours_opt, self.theirs_opt))
        )

    def compare(self, what: str, ours: Tensor | None, theirs: Tensor | None) -> None:
        if ours is None or theirs is None:
            if ours is not theirs:
                raise DifferenceError(f"{what}: {ours}, PyTorch {theirs}")
        else:
            close = {"rtol": CLOSE["rtol"], "atol": self.scale * CLOSE["atol"], "equal_nan": True}
            torch.testing.assert_close(ours, theirs.detach(), msg=lambda text: f"{what}: {text}", **close)

    def run(self) -> None:
        """Take all steps.

        Raises:
            AssertionError: the two sides differ.
        """
        for number in range(STEPS):
            try:
                self.step(number)
            except DivergedError:
                self.say("it diverges: rounding alone would part them from here on")
                return


def difference(seed: int) -> str:
    """Return what is different in a case, or nothing."""
    with torch.random.fork_rng(devices=[]):
        case = None
        try:
            case = Case(seed)
            case.run()
        except Exception as error:
            log = "\n".join(case.log) if case else f"seed {seed}"
            return f"{log}\n{type(error).__name__}: {error}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1000, help="how many (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    parser.add_argument("--verbose", action="store_true", help="tell what each case does")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = 0
    for seed in range(options.seed, options.seed + options.cases):
        if options.verbose:
            with torch.random.fork_rng(devices=[]):
                case = Case(seed)
                case.run()
                print("\n".join(case.log))
        elif text := difference(seed):
            found += 1
            print(f"{text}\n", flush=True)
    print(f"{found} of {options.cases} cases differ")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
