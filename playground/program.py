"""The program of a run: what a lab did, written for a reader who has diy.py and nothing else of this project."""

import inspect
from dataclasses import replace
from itertools import pairwise

from playground import company, lab
from playground.data import DATA_SETS, FEATURES


def write(of: "lab.Lab") -> str:
    """Return the program of a lab's run up to the present step, or at the start of its first 100 epochs."""
    s, points, _ = of.start
    if not len(of.x) and not of.steps:
        return f"# {lab.NOTHING}\n"
    changes = [change for change in of.changes if change[1] != "twin"]
    steps = of.steps or 100 * of.steps_per_epoch
    whole = not changes and not of.steps_in_epoch
    bug = s.bug != lab.NO_BUG and not company.unshuffled(s.bug)
    tested = s.data != lab.OWN and of.test_size > 0
    own = bool(points) or any(what.endswith("points") for _, what, _ in changes)

    lines = ["# Save this beside diy.py, or run it in a cell of this notebook."]
    if bug:
        lines[0] = "# It trains with a planted bug, which it takes from this project: run it in the project's folder."
    lines += ["import math", ""] if s.data != lab.OWN and "math." in inspect.getsource(DATA_SETS[s.data]) else []
    lines += [
        "import torch",
        "",
        *(["from bugs import load", "", f'diy = load("{s.bug}")'] if bug else ["import diy"]),
    ]
    lines += ["", ""]
    lines += _data(of, s, own)
    lines += _start(of, s, points, own)
    lines += _network(s)
    lines += [
        f'criterion = diy.MSELoss(reduction="{s.reduction}")',
        f"optimizer = {_optimizer(s)}",
        "",
    ]
    lines += _epochs(of, s) if whole else _steps(s, changes, steps)
    # What the bug has made of the loss is not what the screen shows.
    loss = "({0} - {1}).square().mean().item()" if bug else "diy.MSELoss()({0}, {1}).item()"
    draws = bool(s.dropout) and company.draws_in_evaluation(s.bug)
    seeded = [f"torch.manual_seed({steps})  # with this bug evaluation draws, too"] if draws else []
    lines += ["", "model.eval()", *seeded, f"train_loss = {loss.format('model(see(x))', 'y')}"]
    if not tested:
        lines.append('print(f"train loss {train_loss:.4f}")')
    else:
        lines += [
            *seeded,
            "test_output = model(see(x_test))",
            f"test_loss = {loss.format('test_output', 'torch.eye(2)[labels_test]')}",
            "test_error = (test_output.argmax(1) != labels_test).double().mean().item()",
            'print(f"train loss {train_loss:.4f}, test loss {test_loss:.4f}, test error {100 * test_error:.1f} %")',
        ]
    if s.features == ("x", "y"):
        lines = [
            line.replace("see(x_test)", "x_test").replace("see(x)", "x").replace("see(x[rows])", "x[rows]")
            for line in lines
        ]
    return "\n".join(lines) + "\n"


def _data(of, s, own: bool) -> list[str]:
    lines = [] if s.data == lab.OWN else [inspect.getsource(DATA_SETS[s.data]), ""]
    if s.features != ("x", "y"):
        shown = ", ".join(FEATURES[name].format("points[:, 0]", "points[:, 1]") for name in s.features)
        lines += [
            "def see(points):",
            '    """Return what the network sees of each point."""',
            f"    return torch.stack([{shown}], dim=1)",
            "",
            "",
        ]
    if s.data == lab.OWN:
        return [*lines, "drawn, drawn_labels = torch.empty(0, 2), torch.empty(0, dtype=torch.long)"]
    noisy = f"{{}} += {s.noise} * torch.randn({{}}.shape, generator=generator)"
    names = ("drawn", "drawn_labels") if own else ("x", "labels")
    lines += [f"generator = torch.Generator().manual_seed({s.seed})"]
    sets = [(names, of.train_size), *([(("x_test", "labels_test"), of.test_size)] if of.test_size else [])]
    for (points, labels), size in sets:
        lines.append(f"{points}, {labels} = {s.data}({size}, generator)")
        lines += [noisy.format(points, points)] if s.noise else []
    return lines


def _start(of, s, points, own: bool) -> list[str]:
    if not own:
        return ["y = torch.eye(2)[labels]", ""]
    return [
        "",
        "",
        "def with_own(points):",
        '    """Return points and targets: those that were drawn, then these of your own."""',
        "    places = torch.tensor([point[:2] for point in points]).reshape(-1, 2)",
        "    labels = torch.tensor([point[2] for point in points], dtype=torch.long)",
        "    return torch.cat([drawn, places]), torch.eye(2)[torch.cat([drawn_labels, labels])]",
        "",
        "",
        f"own = {list(points)}",
        "x, y = with_own(own)",
        "",
    ]


def _network(s) -> list[str]:
    lines = [f"torch.manual_seed({s.seed})", "model = diy.Sequential("]
    for n_in, n_out in pairwise(s.sizes[:-1]):
        dropout = f" diy.Dropout({s.dropout})," if s.dropout else ""
        lines.append(f"    diy.Linear({n_in}, {n_out}), diy.{s.activation}(),{dropout}")
    lines += [f"    diy.Linear({s.sizes[-2]}, 2), diy.Tanh(),", ")"]
    if s.init_scale != 1:
        lines += [
            "for layer in model:",
            "    if isinstance(layer, diy.Linear):",
            f"        layer.weight *= {s.init_scale}",
        ]
    return lines


def _optimizer(s) -> str:
    kind, arguments = lab.OPTIMIZERS[s.optimizer]
    arguments = arguments | ({"weight_decay": s.weight_decay} if s.weight_decay else {})
    return (
        f"diy.{kind}(model.parameters(), lr={s.lr}{''.join(f', {name}={value}' for name, value in arguments.items())})"
    )


def _step(bug: str) -> list[str]:
    target = "y[target_rows]" if company.unshuffled(bug) else "y[rows]"
    return [
        f"loss = criterion(model(see(x[rows])), {target})",
        "optimizer.zero_grad()",
        "model.backward(criterion.backward())",
        "optimizer.step()",
    ]


def _epochs(of, s) -> list[str]:
    rows = f"torch.randperm(len(x)).split({s.batch_size})"
    if company.unshuffled(s.bug):
        rows = f"zip({rows}, torch.arange(len(x)).split({s.batch_size}))"
    loop = "for rows, target_rows in" if company.unshuffled(s.bug) else "for rows in"
    return [
        f"for epoch in range({of.epoch or 100}):",
        f"    {loop} {rows}:",
        *(f"        {line}" for line in _step(s.bug)),
    ]


def _steps(s, changes, steps: int) -> list[str]:
    """A loop over steps, in which the changes that were made on screen stand at their place."""
    mixed = company.unshuffled(s.bug)
    lines = [f"batch_size, batches = {s.batch_size}, []", f"for step in range({steps}):"]
    last, after = None, []
    with_own = ["x, y = with_own(own)", "batches = []  # the epoch starts over"]
    for when, what, value in changes:
        if what in lab.LIVE:
            s = replace(s, **{what: value})
        texts = {
            "lr": ["optimizer.lr = {value}"],
            "weight_decay": ["optimizer.weight_decay = {value}"],
            "batch_size": ["batch_size = {value}"],
            "reduction": [f'criterion = diy.MSELoss(reduction="{value}")'],
            "optimizer": [f"optimizer = {_optimizer(s)}"],
            "points": ["own = {value}", *with_own],
            "more points": ["own += {value}", *with_own],
            "weight": _set_weight(value) if what == "weight" else [],
        }[what]
        texts = [text.format(value=value) if "{value}" in text else text for text in texts]
        if when == steps:
            after += texts
            continue
        if when != last:
            lines.append(f"    if step == {when}:  # changed on screen")
        last = when
        lines += [f"        {text}" for text in texts]
    lines += [
        "    if not batches:  # a new epoch",
        "        batches = list(torch.randperm(len(x)).split(batch_size))",
        *(["        target_batches = list(torch.arange(len(x)).split(batch_size))"] if mixed else []),
        "    rows = batches.pop(0)",
        *(["    target_rows = target_batches.pop(0)"] if mixed else []),
        *(f"    {line}" for line in _step(s.bug)),
    ]
    return lines + (["# changed on screen after the last step", *after] if after else [])


def _set_weight(value) -> list[str]:
    layer, unit, source, number = value
    tensor, index = ("bias", f"{unit}") if source == -1 else ("weight", f"{unit}, {source}")
    linears = "[layer for layer in model if isinstance(layer, diy.Linear)]"
    return [f"{linears}[{layer}].{tensor}[{index}] = {number}"]
