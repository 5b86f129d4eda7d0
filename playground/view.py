"""The playground in JupyterLab: a thin view of a `Lab`.

The browser sends what the learner does ("play", "set lr to 0.01") and draws what it is sent; all state lives here.
Training runs in short pieces on the kernel's own event loop. Between two of them the kernel is free for other cells,
and no second thread ever touches the lab or PyTorch's random numbers.
"""

import asyncio
import math
import time
from dataclasses import asdict
from pathlib import Path

import anywidget
import torch
import traitlets

from playground import still
from playground.data import DATA_SETS
from playground.lab import ACTIVATIONS, EDGE, NOTHING, OPTIMIZERS, OWN, Lab

BUDGET = 0.02
"""Seconds of training between two looks at the kernel's other work, unless a single step takes longer."""

FRAMES_PER_SECOND = 60
WINDOW = 45
"""How many frames may be on their way to the browser; it reports every 15th one that arrived."""

PATIENCE = 5.0
"""Seconds without such a report after which nobody is taken to be looking."""

SPEEDS = {"1 step per frame": (1, 0), "1 epoch per frame": (0, 1), "10 epochs per frame": (0, 10)}

CHOICES = {
    "data": [*DATA_SETS, OWN],
    "noise": [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5],
    "depth": [0, 1, 2, 3, 4, 5, 6],
    "width": [1, 2, 3, 5, 8, 12, 18, 25, 50, 100],
    "activation": [*ACTIVATIONS],
    "dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    "reduction": ["mean", "sum"],
    "optimizer": [*OPTIMIZERS],
    "lr": [float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)] + [10.0],
    "batch_size": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "init_scale": [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
    "speed": [*SPEEDS],
}
"""What the controls offer. A lab that has another value adds it."""

LABELS = {
    "data": ("data set", "what is to be learned"),
    "noise": ("noise", "standard deviation of what is added to each point"),
    "depth": ("hidden layers", "number of hidden layers; with 0 the network is a single linear layer"),
    "width": ("width", "units in each hidden layer"),
    "activation": ("activation", "of the hidden layers; the output always has a Tanh"),
    "dropout": ("dropout", "share of the hidden activations that is set to 0 while training"),
    "init_scale": ("init scale", "factor of the initial weights, which Xavier's rule draws"),
    "reduction": ("loss reduction", "mean or sum of the squared errors; the gradients differ by 2 × batch size"),
    "optimizer": ("optimizer", "how the weights follow the gradient"),
    "lr": ("learning rate", "size of the steps, on a logarithmic scale"),
    "batch_size": ("batch size", "points per step"),
}
"""What each control is called, and what it does."""

LOST = "The run on screen is lost: press Play to begin a new one."


class Playground(anywidget.AnyWidget):
    """The laboratory as a widget: the last line of a cell shows it.

        Playground(data="spiral", depth=2)

    Args:
        lab: the `Lab` to show; without one, a new one is made from `arguments`.
        arguments: those of `Lab`.

    A cell may use `lab` while it plays: cells and training take turns. Settings and points that it
    changes are shown at once.

    Raises:
        TypeError: both a lab and arguments are given.
    """

    _esm = Path(__file__).with_name("view.js")
    _css = Path(__file__).with_name("view.css")

    choices = traitlets.Dict(CHOICES).tag(sync=True)
    labels = traitlets.Dict(LABELS).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    points = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)
    answer = traitlets.Int().tag(sync=True)

    def __init__(self, lab: Lab | None = None, **arguments):
        if lab is not None and arguments:
            raise TypeError(f"give a lab or the arguments of a new one, not both: got a lab and {sorted(arguments)}")
        super().__init__()
        self.lab = lab or Lab(**arguments)
        self.speed = "1 epoch per frame"
        self.playing = False
        self._task: asyncio.Task | None = None
        self._sent = self._seen = self._token = 0
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._show_all()
        self._say("Ready. Press Play and watch the picture on the left." if len(self.lab.x) else NOTHING)
        self.lab.watchers.append(self._show_all)
        self.on_msg(self._receive)

    def __repr__(self) -> str:
        return f"Playground({self.lab!r})"

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        picture = {"image/png": {"alt": still.describe(self.lab)}}
        return data | {"text/plain": repr(self), "image/png": still.png(self.lab)}, metadata | picture

    # What the learner does

    def play(self) -> None:
        """Train until `pause`, trouble, or nobody looks any more. After trouble, start anew.

        Raises:
            RuntimeError: there is nothing to learn, or no event loop to run on.
        """
        if self._loop is None:
            raise RuntimeError("playing needs Jupyter's event loop: make the Playground in a notebook cell")
        if not len(self.lab.x):
            raise RuntimeError(NOTHING)
        self._leave_trouble()
        self.playing, self._seen = True, self._sent
        self._say("Playing.")
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._play())

    def pause(self, why: str = "Paused.") -> None:
        """Stop where it is."""
        self.playing = False
        self._say(why)

    def step(self) -> None:
        """Pause and take one step."""
        self._leave_trouble()
        self.lab.step()
        self.pause(self.lab.trouble or "One step on one mini-batch.")
        self._show()

    def epoch(self) -> None:
        """Pause and finish the epoch."""
        self._leave_trouble()
        self.lab.run_epoch()
        self.pause(self.lab.trouble or "One epoch: every training point was used once.")
        self._show()

    def reset(self) -> None:
        """Pause and go back to the initial weights."""
        self.lab.reset()
        self.pause("Back at the initial weights.")

    def set(self, name: str, value, token: int = 0) -> None:
        """Change one setting of the lab, or the speed. The browser knows by the token which answer is its newest."""
        self._token = token
        if name == "speed":
            self._set_speed(value)
        else:
            self._set(name, value)
        self._show_settings()

    def _set_speed(self, value: str) -> None:
        if value not in SPEEDS:
            raise ValueError(f"speed must be one of {', '.join(SPEEDS)}, got {value!r}")
        self.speed = value
        self._say(f"Speed: {value}.")

    def _set(self, name: str, value) -> None:
        steps = self.lab.steps
        self.lab.change(**{name: value})
        text = f"{LABELS.get(name, (name,))[0].capitalize()}: {value}."
        if name == "reduction":
            text += f" The gradient of the sum is {2 * self._batch()} times that of the mean: {self._batch()} points "
            text += "per batch, 2 outputs each."
            text += " (Adam divides by its size.)" if self.lab.settings.optimizer == "Adam" else ""
        if steps and not self.lab.steps:
            text += " A new run has begun."
        self._say(text)

    def add(self, x: float, y: float, label: int) -> None:
        """Add a training point."""
        self.lab.add_point(x, y, label)
        self._say(f"Added a point of class {label} at ({x:.2f}, {y:.2f}).")

    def clear(self) -> None:
        """Remove the added points."""
        self.lab.remove_points()
        if not len(self.lab.x):
            self.playing = False
        self._say("Your points are removed.")

    def twin(self, wanted: bool) -> None:
        """Begin a new run with or without a PyTorch twin."""
        self.lab.twin = wanted
        self._say(
            "A new run, with a PyTorch network beside: same initial weights, same batches."
            if wanted
            else "A new run, without the twin."
        )

    def write_code(self) -> None:
        """Put the program of the run on screen."""
        self.code = self.lab.snippet()

    def seen(self, number: int) -> None:
        """Note that the browser received the frame of this number."""
        self._seen = max(self._seen, number)

    def closed(self) -> None:
        """Stop, because the output was closed."""
        self.pause("Paused, because the output was closed.")

    ACTIONS = frozenset(
        ("play", "pause", "step", "epoch", "reset", "set", "add", "clear", "twin", "write_code", "seen", "closed")
    )

    def _receive(self, _, content: dict, buffers: list) -> None:
        # JupyterLab delivers messages of widgets on a thread of their own.
        if self._loop is None:
            self._act(content)
        else:
            self._loop.call_soon_threadsafe(self._act, content)

    def _act(self, content: dict) -> None:
        action, arguments = content.get("action"), content.get("arguments", [])
        try:
            if action not in self.ACTIONS:
                raise ValueError(f"unknown action {action!r}")
            getattr(self, action)(*arguments)
        except (RuntimeError, TypeError, ValueError) as error:
            self._show_settings()
            self.playing = False
            self._say(str(error), kind="trouble")
        if action not in ("seen", "closed"):
            self.answer += 1  # the same words twice would send nothing, and the browser would wait

    # The loop

    async def _play(self) -> None:
        while self.playing:
            started = time.perf_counter()
            try:
                self._advance()
                self._show()
            except Exception as error:
                self.playing = False
                self._say(f"Stopped by an error: {error}", kind="trouble")
            await asyncio.sleep(max(0.001, 1 / FRAMES_PER_SECOND - (time.perf_counter() - started)))
            if not await self._somebody_looks():
                self.pause("Paused, because the browser does not answer any more.")

    def _advance(self) -> None:
        lab, until = self.lab, time.perf_counter() + BUDGET
        steps, epochs = SPEEDS[self.speed]
        last_step, last_epoch = lab.steps + steps, lab.epoch + epochs
        while True:
            lab.step()
            if lab.trouble:
                self.playing = False
                self._say(lab.trouble)
            done = lab.steps >= last_step if steps else lab.epoch >= last_epoch
            if done or lab.trouble or time.perf_counter() > until:
                return

    async def _somebody_looks(self) -> bool:
        # Counts naps, not seconds: while a long cell runs, the browser's reports wait, and that is no silence.
        for _ in range(int(PATIENCE / 0.01)):
            if self._sent - self._seen < WINDOW or not self.playing:
                return True
            await asyncio.sleep(0.01)
        return False

    def _leave_trouble(self) -> None:
        if self.lab.trouble:
            self.lab.reset()

    def _batch(self) -> int:
        return min(self.lab.settings.batch_size, max(1, len(self.lab.x)))

    # What is sent to the browser

    def _say(self, text: str, kind: str = "fine") -> None:
        if self.lab.trouble and kind == "fine":
            text, kind = text if text == self.lab.trouble else f"{text} {LOST}", "trouble"
        self.status = {"text": text, "kind": kind, "playing": self.playing}
        self._show_code()

    def _show_all(self) -> None:
        self._show_points()
        self._show_settings()
        self._show_code()
        self._show()

    def _show_code(self) -> None:
        if self.code and not self.playing:
            self.code = self.lab.snippet()

    def _show_settings(self) -> None:
        now = asdict(self.lab.settings)
        self.choices = {
            name: values if name == "speed" or now[name] in values else sorted([*values, now[name]])
            for name, values in self.choices.items()
        }
        self.settings = now | {
            "speed": self.speed,
            "twin": self.lab.twin is not None,
            "token": self._token,
        }

    def _show_points(self) -> None:
        shown = still.shown(self.lab)
        self.points = {
            "places": self.lab.x[shown].numpy().tobytes(),
            "labels": self.lab.labels[shown].to(torch.uint8).numpy().tobytes(),
            "added": len(self.lab.points),
            "drawn": len(self.lab.x) - len(self.lab.points),
            "edge": EDGE,
        }

    def _show(self) -> None:
        lab = self.lab
        self._sent += 1
        now, distance = lab.measure(), lab.twin_distance()
        surface = lab.surface(50).clamp(-1, 1).mul(32767).nan_to_num(0).to(torch.int16)
        self.frame = {
            "number": self._sent,
            "epoch": lab.epoch,
            "batch": lab.steps_in_epoch,
            "batches": lab.steps_per_epoch,
            "now": [None if math.isnan(value) else value for value in now[1:]],
            "twin": None if math.isnan(distance) else distance,
            "surface": surface.numpy().tobytes(),
            "size": 50,
            "curve": still.curve(lab).numpy().tobytes(),
            "layers": still.histograms(lab),
        }
