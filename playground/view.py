"""The playground in JupyterLab: a thin view of a `Lab`.

The browser sends what the learner does ("play", "set lr to 0.01") and draws what it is sent; all state lives here.
Training runs in short slices on the kernel's own event loop. Between two of them the kernel is free for other cells,
and no second thread ever touches the lab or PyTorch's random numbers. What takes long is announced before it begins.
"""

import asyncio
import base64
import math
import signal
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import NamedTuple

import anywidget
import torch
import traitlets

from playground import company, still
from playground.data import DATA_SETS, FEATURES
from playground.lab import ACTIVATIONS, EDGE, LIVE, NO_BUG, NOTHING, OPTIMIZERS, OWN, Lab, Settings, Weight

SLICE = 0.02
"""Seconds of training between two looks at the kernel's other work, unless a single step takes longer."""

FRAMES_PER_SECOND = 60
WINDOW = 45
"""How many frames may be on their way to the browser; it reports every 15th one that arrived."""

PATIENCE = 5.0
"""Seconds without such a report after which nobody is taken to be looking."""

REFRESH = 0.5
"""Seconds between two looks at what need not be as new as the picture: program, line, a weight in hand."""

FILM = 64
"""How many pictures of a run are kept for its GIF at most: then every other one is dropped."""

SPEEDS = {
    "1 step per picture": ("steps", 1),
    "1 epoch per picture": ("epoch", 1),
    "10 epochs per picture": ("epoch", 10),
}

CHOICES = {
    "data": [*DATA_SETS, OWN],
    "noise": [0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5],
    "features": [*FEATURES],
    "depth": [0, 1, 2, 3, 4, 5, 6],
    "width": [1, 2, 3, 5, 8, 12, 18, 25, 50, 100],
    "activation": [*ACTIVATIONS],
    "dropout": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
    "init_scale": [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0],
    "reduction": ["mean", "sum"],
    "optimizer": [*OPTIMIZERS],
    "lr": [float(f"{digit}e{power}") for power in range(-5, 1) for digit in (1, 2, 5)] + [10.0],
    "batch_size": [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000],
    "weight_decay": [0.0, 1e-5, 1e-4, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0],
    "bug": [NO_BUG, *company.STORIES],
    "speed": [*SPEEDS],
}
"""What the controls offer. A lab that has another value adds it."""

LABELS = {
    "data": ("data set", "what is to be learned"),
    "noise": ("noise", "standard deviation of the noise added to each point drawn"),
    "features": ("features", "what the network sees of a point (x, y)"),
    "depth": ("hidden layers", "number of hidden layers; with 0 there is only the output layer"),
    "width": ("width", "units in each hidden layer"),
    "activation": ("activation", "of the hidden layers; the output always has a Tanh"),
    "dropout": ("dropout", "probability with which each hidden activation is set to 0 while training"),
    "init_scale": ("init scale", "factor of the initial weights, which Xavier's rule draws"),
    "reduction": ("loss", "mean or sum of the squared errors; the gradients differ by 2 × batch size"),
    "optimizer": ("optimizer", "how the weights follow the gradient"),
    "lr": ("learning rate", "size of the steps, on a logarithmic scale"),
    "batch_size": ("batch size", "points per step"),
    "weight_decay": ("L2", "weight decay: this number times the weight is added to the gradient"),
    "bug": ("bug", "a mistake planted in the network's framework; its healthy twin learns beside it"),
    "seed": ("seed", "of data, weights, order and masks"),
}
"""What each control is called, and what it does. The view adds its name in code."""

MEASURING = {"value": None, "slope": None, "gradient": None, "loss": None, "curve": [], "words": "Measuring …"}
"""What is said of a weight that was just taken in hand, in a network so large that measuring takes a while."""

LOST = "The run on screen is lost: press Play to start a new one."

_playing: "weakref.WeakSet[Playground]" = weakref.WeakSet()


class _Goal(NamedTuple):
    """Up to where a run is trained, whatever trouble it may meet or not; what is said till then, and there."""

    reached: Callable[[], bool]
    then: Callable[[], str]
    text: str
    whatever: bool
    run: object


class Playground(anywidget.AnyWidget):
    """The laboratory as a widget: put it on the last line of a cell to show it.

        Playground(data="spiral", depth=2)
        Playground(bug="uphill")

    Args:
        lab: the `Lab` to show; without one, a new one is made from `arguments`.
        steps: how many steps to take at once, as a line that restores a run does.
        speed: what lies between two pictures, one of SPEEDS.
        show_test: whether the test points are drawn as well.
        discretize: whether the plane shows only decisions, not how sure they are.
        arguments: those of `Lab`. With a bug, the defaults come from the bug's story, see `company.STORIES`.

    A cell may use `lab` while it plays: cells and training take turns. Settings and points that it
    changes are shown at once.

    Raises:
        TypeError: both a lab and arguments are given, or `lab` is not a Lab.
        ValueError: an argument is refused; the message names it.
    """

    _esm = Path(__file__).with_name("view.js")
    _css = Path(__file__).with_name("view.css")

    choices = traitlets.Dict(CHOICES).tag(sync=True)
    labels = traitlets.Dict(LABELS).tag(sync=True)
    settings = traitlets.Dict().tag(sync=True)
    points = traitlets.Dict().tag(sync=True)
    frame = traitlets.Dict().tag(sync=True)
    progress = traitlets.Dict().tag(sync=True)
    before = traitlets.Dict().tag(sync=True)
    story = traitlets.Dict().tag(sync=True)
    inside = traitlets.Dict().tag(sync=True)
    hand = traitlets.Dict().tag(sync=True)
    status = traitlets.Dict().tag(sync=True)
    code = traitlets.Unicode().tag(sync=True)
    line = traitlets.Unicode().tag(sync=True)
    answer = traitlets.Int().tag(sync=True)

    def __init__(
        self,
        lab: Lab | None = None,
        steps: int = 0,
        speed: str = "1 epoch per picture",
        show_test: bool = False,
        discretize: bool = False,
        **arguments,
    ):
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"steps must be an integer ≥ 0, got {steps!r}")
        if not isinstance(lab, Lab | None):
            raise TypeError(f"the first argument must be a Lab, got {lab!r}: give settings by name, as in data='moons'")
        if lab is not None and arguments:
            raise TypeError(f"give a lab or the arguments of a new one, not both: got a lab and {sorted(arguments)}")
        look = {"speed": speed, "show_test": show_test, "discretize": discretize}
        for name, value in look.items():
            _check_look(name, value)
        super().__init__()
        self.lab = lab or Lab(**company.settings(arguments.get("bug")) | arguments)
        self.look = look
        self._wants_to_play = False
        self._goal: _Goal | None = None
        self._task: asyncio.Task | None = None
        self._jobs: set[asyncio.Task] = set()
        self._views: dict[str, bool] = {}
        self._sent = self._seen = self._token = 0
        self._refreshed = 0.0
        self._acting, self._stale = False, set()
        self._open: set[tuple[str, str]] = set()
        self._held: tuple[int, int, int] | None = None
        self._hand_token, self._weigh_again = 0, 0.0
        self._weighing = self._outdated = False
        self._answers: tuple[str, list[dict]] = NO_BUG, []
        self._film: list[tuple[int, torch.Tensor, still.Dots]] = []
        self._stride = 1
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self.lab.watchers.append(self._changed)
        self.on_msg(self._receive)
        for what in ("points", "run"):
            self._changed(what)
        self._say("Ready. Press Play and watch the picture." if len(self.lab.x) else NOTHING)
        if steps > self.lab.steps:
            planned = self.lab.planned

            def told() -> str:
                if self.lab.changes == planned:
                    return "The run is restored."
                return f"{steps} steps were repeated, with what you have changed meanwhile."

            self.train_until(lambda: self.lab.steps >= steps, told, f"Repeating {steps} steps.", whatever=True)

    def __repr__(self) -> str:
        return f"Playground({self.lab!r})"

    def _ipython_display_(self) -> None:
        from IPython.display import display

        data, metadata = super()._repr_mimebundle_()
        display(data | {"text/plain": repr(self)}, metadata=metadata, raw=True)
        # For pages without a kernel, or whose kernel is gone. The style sheet hides it beside the living.
        words, png = still.describe(self.lab), still.png(self.lab, still.STILL, still.WARNING)
        image = f'<img alt="{escape(words)}" style="max-width: 100%" src="data:image/png;base64,{png}">'
        html = f'<div class="diy-still"><p>{still.STILL}</p>\n{image}</div>'
        display({"text/html": html, "text/plain": words}, raw=True)

    @property
    def playing(self) -> bool:
        """Whether it trains now: nothing is trained while all its views are out of sight."""
        return self._wants_to_play and (not self._views or any(self._views.values()))

    # What the learner does

    def play(self) -> None:
        """Train until `pause`, trouble, or nobody looks any more. After trouble, start anew.

        Raises:
            RuntimeError: there is nothing to learn, or no event loop to run on.
        """
        if self._loop is None:
            raise RuntimeError("playing needs Jupyter's event loop: make the Playground in a notebook cell")
        self._begin()
        self._goal = None
        self._go("Playing.")

    def pause(self, why: str = "Paused.") -> None:
        """Stop where it is."""
        self._stop()
        self._say(why)
        self._refresh()

    def step(self) -> None:
        """Pause and take one step."""
        anew = "A new run has begun: one" if self._begin() else "One"
        self.lab.step()
        self.pause(self.lab.trouble or f"{anew} step on one mini-batch.")
        self._show()

    def epoch(self) -> None:
        """Finish the epoch, then pause."""
        self._begin()
        self.train_until(
            lambda: not self.lab.steps_in_epoch,
            lambda: "The epoch is finished: every training point was used once.",
            "To the end of the epoch.",
        )

    def reset(self) -> None:
        """Pause and go back to the initial weights."""
        self.lab.reset()
        self.pause("Back at the initial weights.")

    def set(self, name: str, value, token: int = 0) -> None:
        """Change one setting of the lab or of the view. The browser knows by the token which answer is its newest."""
        self._token = token
        self._stale.add("settings")
        if name in self.look:
            self._set_look(name, value)
        elif name == "bug":
            self._set_bug(value)
        else:
            self._set(name, value)

    def add(self, x: float, y: float, label: int) -> None:
        """Add a training point."""
        if (round(x, 3), round(y, 3), label) in self.lab.points:
            return self._say(f"There is a point of class {label} at ({x:.2f}, {y:.2f}) already.")
        self.lab.add_point(x, y, label)
        self._say(f"Added a point of class {label} at ({x:.2f}, {y:.2f}).")

    def move(self, point: list, x: float, y: float) -> None:
        """Move one of the learner's points, which is named by itself: by now it may have another number."""
        index = self._index(point)
        if (round(x, 3), round(y, 3), point[2]) in self.lab.points:
            return self._say(f"There is a point of class {point[2]} at ({x:.2f}, {y:.2f}) already.")
        points = list(self.lab.points)
        points[index] = (x, y, points[index][2])
        self.lab.set_points(points)
        self._say(f"Moved to ({x:.2f}, {y:.2f}).")

    def remove(self, point: list) -> None:
        """Remove one of the learner's points."""
        points = list(self.lab.points)
        x, y, label = points.pop(self._index(point))
        self.lab.set_points(points)
        self._without(f"Removed the point of class {label} at ({x:.2f}, {y:.2f}).")

    def _index(self, point: list) -> int:
        if tuple(point) not in self.lab.points:
            raise ValueError(f"there is no point of yours at ({point[0]:.2f}, {point[1]:.2f}) any more")
        return self.lab.points.index(tuple(point))

    def undo(self) -> None:
        """Take back the last change of the points."""
        before = self.lab.points
        self.lab.undo_points()
        self._without("There is nothing to undo." if self.lab.points is before else "Undone: the points are as before.")

    def clear(self) -> None:
        """Remove all added points."""
        if not self.lab.points:
            return self._say("There are no points of your own to remove.")
        self.lab.set_points([])
        self._without("Your points are removed. Undo brings them back.")

    def twin(self, wanted: bool) -> None:
        """Begin or end a PyTorch twin; the run goes on."""

        async def begin():
            # The first step of a PyTorch optimizer imports PyTorch's compiler.
            parameter = torch.zeros(1, requires_grad=True)
            parameter.grad = torch.zeros(1)
            torch.optim.SGD([parameter]).step()
            self.lab.twin = True
            if self.lab.settings.bug != NO_BUG:
                return self._say("Its healthy twin learns beside it. PyTorch's comes with the next run without a bug.")
            self._say("From here on, a PyTorch network learns beside it: the same weights, the same batches.")

        if wanted:
            self._work("Loading PyTorch's optimizers: a few seconds, only once.", begin())
        else:
            self.lab.twin = False
            self._say("The twin is gone; the run continues." if self.lab.twin is None else "The healthy twin stays.")

    def ask_checks(self) -> None:
        """Ask each kind of check about the bug on screen, by running it."""

        async def ask():
            from bugs import ORACLES

            name, answers = asked = self.lab.settings.bug, []
            self._answers = asked
            for kind in ORACLES:
                self._say(f"Asking: {kind} …", kind="busy")
                await self._breathe()
                if self._answers is not asked or self.lab.settings.bug != name:
                    return  # another bug has been chosen, or all have been asked anew
                answers.append(company.answer(kind, name))
                self._show_story()
            seen = sum(answer["sees"] for answer in answers)
            self._say(f"{seen} of {len(answers)} checks see it. Below they say what they found.")

        if self.lab.settings.bug == NO_BUG:
            raise ValueError("there is no bug to ask about: choose one first")
        self._work("Asking all checks …", ask())

    def unfold(self, part: str, wanted: bool, view: str = "") -> None:
        """Note that "code" or "inside" was opened or closed in a view: what nobody looks at is not sent."""
        (self._open.add if wanted else self._open.discard)((part, view))
        self._refresh()
        self._show_inside()

    def _is_open(self, part: str) -> bool:
        return any(opened == part for opened, _ in self._open)

    def hold(self, layer: int, unit: int, source: int, token: int = 0) -> None:
        """Take a weight in hand; source -1 is the bias. About the token see `set`."""
        self._hand_token = token
        self.lab.weigh(layer, unit, source)  # refuses a place that does not exist
        self._held = (layer, unit, source)
        self._show_hand()

    def turn(self, value: float, token: int = 0) -> None:
        """Set the weight in hand; about the token see `set`."""
        if self._held is None:
            raise ValueError("there is no weight in hand: choose one first")
        self._hand_token = token
        self.lab.set_weight(*self._held, value)
        self._say(f"The weight in hand is {value:.4g}.{'' if self.lab.trouble else ' The run goes on from here.'}")

    def save(self, kind: str) -> None:
        """Send the picture ("png") or the run ("gif") to the browser as a file."""
        names = {"png": self._png, "gif": self._gif}
        if kind not in names:
            raise ValueError(f"the file must be a png or a gif, got {kind!r}")
        self._work("Drawing …", names[kind]())

    def seen(self, number: int) -> None:
        """Note that the browser received the frame of this number."""
        self._seen = max(self._seen, number)

    def sight(self, view: str, visible: bool | None) -> None:
        """Note that a view came in sight, went out of it, or (None) was closed. Training waits for one in sight."""
        played = self.playing
        self._views[view] = bool(visible)
        if visible is None:
            del self._views[view]
            self._open = {opened for opened in self._open if opened[1] != view}
        if self._wants_to_play and not self._views:
            self.pause("Paused, because the output was closed.")
        elif played and not self.playing:
            self._say("Waiting until it is in view again.")
        elif self.playing and not played:
            self._go(self._goal.text if self._goal else "Playing.")

    ACTIONS = frozenset(
        ("play", "pause", "step", "epoch", "reset", "set", "add", "move", "remove", "undo", "clear", "twin")
    ) | {"seen", "sight", "ask_checks", "unfold", "hold", "turn", "save"}

    def _receive(self, _, content: dict, buffers: list) -> None:
        # JupyterLab delivers messages of widgets on a thread of their own.
        if self._loop is None:
            self._act(content)
        else:
            self._loop.call_soon_threadsafe(self._act, content)

    def _act(self, content: dict) -> None:
        action, arguments = content.get("action"), content.get("arguments", [])
        with self.hold_sync():  # words and pictures arrive together, so that the next key acts on what is said
            self._acting = True
            try:
                if action not in self.ACTIONS:
                    raise ValueError(f"unknown action {action!r}")
                getattr(self, action)(*arguments)
            except (IndexError, RuntimeError, TypeError, ValueError) as error:
                self._stale.add("settings")
                self._say(str(error), kind="trouble")
            finally:
                self._acting = False
                self._flush()
            if action != "seen":
                self.answer += 1  # the same words twice would send nothing, and the browser would wait

    # Settings

    def _set_look(self, name: str, value) -> None:
        _check_look(name, value)
        self.look[name] = value
        text = f"{name}={value!r}."
        if name == "show_test":
            self._stale.add("points")
            text = "The test points are shown, hollow." if value else "The test points are hidden."
            text = text if len(self.lab.x_test) else "There are no test points to show."
        if name == "discretize":
            text = f"The plane shows {'only what is decided' if value else 'how sure the network is'}."
        self._say(text)

    def _set_bug(self, name: str) -> None:
        old, story = self.lab.settings, company.STORIES.get(name)
        self.lab.change(bug=name, **company.undo(old, Settings()) | company.settings(name))
        self._say(f"bug={name!r}. {story.look}" if story else "No bug: diy as it is.")

    def _set(self, name: str, value) -> None:
        steps, epoch = self.lab.steps, self.lab.epoch
        self.lab.change(**{name: value})
        value = getattr(self.lab.settings, name)
        shown = repr(list(value) if isinstance(value, tuple) else value)
        text = f"{LABELS[name][0].capitalize()}: {name}={shown}."
        if name == "reduction":
            batch = min(self.lab.settings.batch_size, max(1, len(self.lab.x)))
            text += f" The gradient of the sum is {2 * batch} times that of the mean: {batch} points "
            text += "per batch, 2 outputs each."
            text += " (Adam divides it by its size.)" if self.lab.settings.optimizer == "Adam" else ""
        if name == "noise" and self.lab.settings.data == OWN:
            text += " Your own points stay where you set them: noise is added to points that are drawn."
        if steps and not self.lab.steps:
            text += " A new run has begun" + ("; the grey curve is the one before." if epoch else ".")
        elif name in LIVE and steps and not self.lab.trouble:
            text += " The run goes on with it" + (" from the next epoch on." if name == "batch_size" else ".")
        self._without(text)

    def _without(self, text: str) -> None:
        if not len(self.lab.x):
            self._stop()
            text += f" {NOTHING}"
        self._say(text)

    def _begin(self) -> bool:
        """Refuse to train without points; begin a new run if this one is lost, and return whether it was."""
        if not len(self.lab.x):
            raise RuntimeError(NOTHING)
        if lost := bool(self.lab.trouble):
            self.lab.reset()
        return lost

    # The loop

    def _go(self, text: str) -> None:
        self._wants_to_play, self._seen = True, self._sent
        self._say(text if self.playing else "It starts as soon as it is in view.")
        if self.playing and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._play())

    def _stop(self) -> None:
        self._wants_to_play, self._goal = False, None

    def train_until(
        self,
        reached: Callable[[], bool],
        then: Callable[[], str] = lambda: "Paused.",
        text: str = "Playing.",
        whatever: bool = False,
    ) -> None:
        """Train until `reached()`, or trouble unless `whatever` comes; say `text` till then, and `then()` after it."""
        self._goal = _Goal(reached, then, text, whatever, self.lab.model)
        if self._loop is None:
            while self._goal:
                self._take_step()
            self._show()
        else:
            self._go(text)

    async def _play(self) -> None:
        _playing.add(self)
        while self.playing:
            _heed_interrupts()
            started = time.perf_counter()
            try:
                await self._advance()
                self._show()
                self._keep_up()
            except Exception as error:
                self.pause()
                self._say(f"Stopped by an error: {error}", kind="trouble")
            await asyncio.sleep(max(0.001, 1 / FRAMES_PER_SECOND - (time.perf_counter() - started)))
            if self.playing and not await self._answered():
                self.pause("Paused, because the browser no longer answers.")
        _playing.discard(self)

    async def _advance(self) -> None:
        """Train up to the next picture, in slices; with a goal in sight, for a tenth of a second."""
        lab, (counter, number) = self.lab, SPEEDS[self.look["speed"]]
        last, run = getattr(lab, counter) + number, lab.model
        start = slice_start = time.perf_counter()
        while self.playing and lab.model is run:
            self._take_step()
            now = time.perf_counter()
            if not self.playing:
                return  # at once, so that what stopped it is also seen
            if now - start > 0.1 if self._goal else getattr(lab, counter) >= last:
                return
            if now - slice_start > SLICE:
                self.progress = self._where()
                self._keep_up()
                await asyncio.sleep(0.001)
                slice_start = time.perf_counter()

    def _take_step(self) -> None:
        self.lab.step()
        reached = self._goal and self._goal.reached()
        if self.lab.trouble and (reached or not (self._goal and self._goal.whatever)):
            self.pause(self.lab.trouble)
        elif reached:
            self.pause(self._goal.then())

    async def _answered(self) -> bool:
        # Counts naps, not seconds: while a long cell runs, the browser's reports wait, and that is no silence.
        for _ in range(int(PATIENCE / 0.01)):
            if self._sent - self._seen < WINDOW or not self.playing:
                return True
            await asyncio.sleep(0.01)
        return False

    # What takes long

    def _work(self, text: str, job: Coroutine) -> None:
        """Say so, and then do it, so that the words are on screen meanwhile."""
        self._say(text, kind="busy")

        async def work():
            await self._breathe()
            await job

        self._start(work())

    def _start(self, job: Coroutine) -> None:
        async def run():
            try:
                await job
            except Exception as error:
                self._say(f"Stopped by an error: {error}", kind="trouble")

        if self._loop is None:
            asyncio.run(run())
        else:
            task = self._loop.create_task(run())
            self._jobs.add(task)  # the loop itself would forget it
            task.add_done_callback(self._jobs.discard)

    async def _breathe(self) -> None:
        await asyncio.sleep(0.05 if self._loop else 0)

    async def _png(self) -> None:
        self._send_file("png", base64.b64decode(still.png(self.lab, repr(self.lab), still.INK)))

    async def _gif(self) -> None:
        lab, pictures = self.lab, []
        run, history = lab.model, [*lab.history]  # it may play on meanwhile
        batch = f" + {lab.steps_in_epoch}/{lab.steps_per_epoch}" if lab.steps_in_epoch else ""
        film = [(f"{moment[0]}", *moment) for moment in self._film if moment[0] < lab.epoch or batch]
        film.append((f"{lab.epoch}{batch}", lab.epoch, lab.surface(50), still.dots(lab)))
        for number, (when, *moment) in enumerate(film, start=1):
            if lab.model is not run:
                return self._say("The film was abandoned, because a new run has begun.")
            self._say(f"Drawing the film: picture {number} of {len(film)}.", kind="busy")
            pictures.append(still.moment(lab, f"{lab.settings.data}, epoch {when}", history, *moment))
            await self._breathe()
        self._send_file("gif", still.gif(pictures))

    def _send_file(self, kind: str, content: bytes) -> None:
        name = f"{self.lab.settings.data.replace(' ', '-')}-epoch-{self.lab.epoch}.{kind}"
        self.send({"file": name, "type": f"image/{kind}"}, [content])
        self._say(f"The browser has been sent the {kind.upper()}, {len(content) / 1000:.0f} kB.")

    # What is sent to the browser

    def _say(self, text: str, kind: str = "fine") -> None:
        if self.lab.trouble and kind == "fine":
            text, kind = text if text == self.lab.trouble else f"{text} {LOST}", "trouble"
        self.status = {"text": text, "kind": kind, "playing": self.playing}

    def _changed(self, what: str) -> None:
        self._stale.add(what)
        if not self._acting:
            self._flush()

    def _flush(self) -> None:
        stale, self._stale = self._stale, set()
        if "points" in stale:
            self._show_points()
        if stale & {"run", "points"} and not self.lab.steps:
            self._film, self._stride = [], 1
        if "run" in stale and self._goal and self._goal.run is not self.lab.model:
            self._stop()
            self.status = self.status | {"playing": False}
        if stale & {"settings", "run"}:
            self._show_settings()
            self._show_before()
            self._show_story()
        if stale & {"run", "points"}:
            self._show()
        if stale:
            self._weigh_again = 0.0
            self._refresh()

    def _keep_up(self) -> None:
        if time.perf_counter() - self._refreshed > REFRESH:
            self._refresh()

    def _refresh(self) -> None:
        self._refreshed = time.perf_counter()
        self.line = self._restoring_line()
        if self._is_open("code"):
            self.code = self.lab.snippet()
        if not self.playing or time.perf_counter() > self._weigh_again:
            self._show_hand()

    def _show_settings(self) -> None:
        now = asdict(self.lab.settings)
        self.choices = {
            name: values if name in ("speed", "features") or now[name] in values else sorted([*values, now[name]])
            for name, values in self.choices.items()
        }
        twin = "" if self.lab.twin is None else "healthy twin" if now["bug"] != NO_BUG else "PyTorch"
        self.settings = now | self.look | {"twin": twin, "token": self._token}

    def _show_before(self) -> None:
        if self.lab.before is None:
            return
        settings, history = self.lab.before
        self.before = {"name": _difference(settings, self.lab.settings), "curve": _curve(history)}

    def _show_points(self) -> None:
        lab, shown = self.lab, still.shown(self.lab)
        test = slice(still.SHOWN if self.look["show_test"] else 0)
        self.points = {
            "places": lab.x[shown].numpy().tobytes(),
            "labels": lab.labels[shown].to(torch.uint8).numpy().tobytes(),
            "test_places": lab.x_test[test].numpy().tobytes(),
            "test_labels": lab.labels_test[test].to(torch.uint8).numpy().tobytes(),
            "own": [list(point) for point in lab.points],
            "drawn": len(lab.x) - len(lab.points),
            "test": len(lab.x_test),
            "edge": EDGE,
        }

    def _show_story(self) -> None:
        now = self.lab.settings
        if now.bug == NO_BUG:
            self.story = {}
            return
        asked, answers = self._answers
        story = company.tell(now.bug) | {"answers": list(answers) if asked == now.bug else []}
        # What is said to be seen, is seen with the settings with which the bug opens.
        opening = Settings(bug=now.bug, seed=now.seed, **company.settings(now.bug))
        if others := _difference(opening, now):
            story["look"] = f"With its own settings, {others}: {story['look']}"
        self.story = story

    def _where(self) -> dict:
        return {"epoch": self.lab.epoch, "batch": self.lab.steps_in_epoch, "batches": self.lab.steps_per_epoch}

    def _show(self) -> None:
        lab = self.lab
        self._sent += 1
        now, distance, surface = lab.measure(), lab.twin_distance(), lab.surface(50)
        if not (lab.steps_in_epoch or lab.epoch % self._stride or (self._film and self._film[-1][0] == lab.epoch)):
            self._film.append((lab.epoch, surface, still.dots(lab)))
            if len(self._film) > FILM:
                self._stride *= 2
                self._film = [moment for moment in self._film if moment[0] % self._stride == 0]
        self.frame = self._where() | {
            "number": self._sent,
            "now": [value if math.isfinite(value) else None for value in now[1:]],
            "twin_words": self._compare(distance),
            "surface": _bytes(surface),
            "twin_surface": b"" if lab.twin is None else _bytes(lab.surface(50, twin=True)),
            "size": 50,
            "curve": _curve(lab.history),
            "layers": still.histograms(lab),
        }
        self._show_inside()

    def _compare(self, distance: float) -> str:
        if self.lab.twin is None or math.isnan(distance):
            return ""
        if self.lab.settings.bug != NO_BUG:
            if distance == math.inf:
                return "Of the network with the bug and its healthy twin, one has a loss that is no longer a number."
            if distance == 0:
                return "So far, the network with the bug and its healthy twin have the same loss to the last bit."
            return f"The loss of the network with the bug and that of its healthy twin were up to {distance:.4g} apart."
        if distance == math.inf:
            return "Its curves and diy's do not agree: only one of the two losses is a number."
        if distance == 0:
            return "So far, its curves and diy's are the same to the last bit."
        why = "they round differently, and training amplifies it"
        if distance > 0.01:
            return f"Its curves and diy's were up to {distance:.2g} apart ({why})."
        return f"So far, its curves and diy's agree within {distance:.0e} ({why})."

    def _show_inside(self) -> None:
        if not self._is_open("inside"):
            return
        self.inside = {
            "size": 20,
            "columns": [
                {
                    "name": column.name,
                    "total": column.total,
                    "pictures": _bytes(column.pictures / column.pictures.abs().amax((1, 2), keepdim=True).clamp(1e-9)),
                    "shown": len(column.pictures),
                    "weights": _floats(column.weights),
                    "gradients": _floats(column.gradients),
                }
                for column in self.lab.columns()
            ],
        }

    def _show_hand(self) -> None:
        self._outdated = True
        if self._held is not None and not self._weighing:
            self._weighing = True
            self._start(self._weigh())

    async def _weigh(self) -> None:
        """Weigh the weight in hand in slices, and again if anything has changed meanwhile."""
        try:
            while self._outdated and self._held is not None:
                self._outdated, self._weigh_again = False, math.inf
                await self._weigh_once(self._held, self._hand_token)
        except ValueError:  # the network has changed, or there is nothing to learn
            self._held, self.hand = None, {}
        finally:
            self._weighing = False

    async def _weigh_once(self, held: tuple[int, int, int], token: int) -> None:
        run, start = self.lab.model, time.perf_counter()
        slice_start, known = start, {"place": list(held), "token": token}
        for weight in self.lab.weigh(*held):
            if weight is None and time.perf_counter() - slice_start > SLICE:
                if self.hand.get("place") != known["place"]:
                    self.hand = known | MEASURING
                await asyncio.sleep(0.001)
                slice_start = time.perf_counter()
        now = time.perf_counter()
        self._weigh_again = now + 10 * (now - start)  # so that a large network still trains in between
        if held == self._held and self.lab.model is run:
            self.hand = known | _told(weight)

    def _restoring_line(self) -> str:
        lab, (settings, points, twin) = self.lab, self.lab.start
        defaults = asdict(Settings()) | company.settings(settings.bug)
        said = {name: value for name, value in asdict(settings).items() if value != defaults[name]}
        said |= {n: getattr(lab, n) for n in ("train_size", "test_size") if getattr(lab, n) != 1000}
        said |= {"twin": True} if twin else {}
        said |= {"points": list(points)} if points else {}
        said |= {"changes": lab.changes} if lab.changes else {}
        said |= {"steps": lab.steps} if lab.steps else {}
        usual = {"speed": "1 epoch per picture", "show_test": False, "discretize": False}
        said |= {name: value for name, value in self.look.items() if value != usual[name]}
        return f"Playground({', '.join(f'{name}={value!r}' for name, value in said.items())})"


def _check_look(name: str, value) -> None:
    choices = list(SPEEDS) if name == "speed" else [True, False]
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _heed_interrupts() -> None:
    """Let Jupyter's interrupt button pause what plays; between two cells the kernel ignores it."""
    try:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, _interrupt)
    except ValueError:  # not the main thread
        pass


def _interrupt(*_) -> None:
    for playground in list(_playing):
        playground._loop.call_soon_threadsafe(playground.pause, "Paused by the interrupt button.")


def _told(weight: Weight) -> dict:
    numbers = {name: getattr(weight, name) for name in ("value", "slope", "gradient", "loss")}
    numbers = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
    words = "They differ!"
    if numbers["slope"] is None and numbers["loss"] is not None:
        words = "The loss is different at each call, so it has no slope."
    elif None in numbers.values():
        words = "Not all of them are numbers."
    elif weight.agree:
        words = "They agree."
    elif weight.at_kink:
        words = "The loss has a kink here: the gradient lies between the slopes to the left and to the right."
    curve = [pair for pair in zip(weight.values, weight.losses) if all(map(math.isfinite, pair))]
    return numbers | {"words": words, "curve": curve}


def _bytes(values: torch.Tensor) -> bytes:
    scaled = values.clamp(-1, 1).nan_to_num(0).mul(32767)
    return (scaled.sign() * scaled.abs().ceil()).to(torch.int16).numpy().tobytes()  # only 0 is undecided


def _floats(values: torch.Tensor | None) -> bytes:
    return b"" if values is None else values.detach().float().contiguous().numpy().tobytes()


def _curve(history: list) -> bytes:
    return still.curve(history).numpy().tobytes()


def _difference(before: Settings, now: Settings) -> str:
    """Return what was different in the run before, "lr=0.1"."""
    old, new = asdict(before), asdict(now)
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in old.items()
        if value != new[name]
    )
