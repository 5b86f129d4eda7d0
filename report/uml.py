"""Figure 1: the classes of diy.py as a UML class diagram, drawn from the source itself.

    python report/uml.py diy.py report/figures/figure1.svg

pyreverse (part of pylint) reads the source and writes a dot graph of its classes. This file keeps the families that
have an abstract base class, restyles them for a printed column and has the Graphviz inside pygraphviz draw them. A new
module, loss or optimizer therefore appears without a change here.

To give the same drawing on every machine, Graphviz must measure text with the font that will be printed: set the
environment variable FONTCONFIG_FILE as build.py does.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from textwrap import wrap

import pygraphviz

FONT = "DejaVu Sans"
FONT_SIZE = 8
BASE_WIDTH, SUBCLASS_WIDTH = 118, 150
"""Of the boxes, in points; a column of print is 250 points wide and the drawing is scaled to it."""
LINE_HEIGHT = 8.5
"""In points; Graphviz alone would set italics closer than the rest."""
CHARACTERS = 30
"""The longest line in a box of a subclass."""
PYREVERSE = (
    "import sys, astroid, pylint; astroid.MANAGER.module_denylist.add('torch'); pylint.run_pyreverse(sys.argv[1:])"
)
"""Without reading PyTorch, which would take seconds: it is asked for the types of attributes, which are not drawn."""


@dataclass
class Class:
    """What a box of the diagram says: methods with the names of their arguments, abstract ones among them."""

    name: str
    attributes: list[str]
    methods: list[str]
    abstract: set[str]
    bases: list[str] = field(default_factory=list)


def draw(source: Path, target: Path) -> None:
    """Draw the class families of the Python file `source` into the SVG file `target`.

    Raises:
        ValueError: `source` cannot be read, or has no abstract class with subclasses.
    """
    families = class_families(class_graph(source))
    if not families:
        raise ValueError(f"{source} has no abstract class with a subclass, so there is no diagram to draw")
    target.write_bytes(diagram(families).draw(format="svg", prog="dot"))


def class_graph(source: Path) -> pygraphviz.AGraph:
    """Return the graph that pyreverse makes of the classes in `source`: boxes, and edges from subclass to base."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", PYREVERSE, "--output", "dot", "--output-directory", folder]
        done = subprocess.run([*command, str(source)], capture_output=True, text=True)
        graph = Path(folder) / "classes.dot"
        if done.returncode != 0 or not graph.is_file():
            raise ValueError(f"pyreverse could not read {source}: {(done.stdout + done.stderr).strip()}")
        return pygraphviz.AGraph(str(graph))


def class_families(graph: pygraphviz.AGraph) -> list[list[Class]]:
    """Return each abstract base class with its descendants, the base first; the largest family comes first.

    A private class is not shown, nor one that has no abstract method: its subclasses take over what it adds.
    """
    classes = {node: parse(node.attr["label"]) for node in graph.nodes()}
    for edge in graph.edges():
        if edge.attr["arrowhead"] == "empty":  # inheritance; others stand for "has a"
            child, base = edge
            classes[child].bases.append(classes[base].name)
    while merged := next(
        filter(lambda c: c.name.startswith("_") or shared(c, classes.values()), classes.values()), None
    ):
        for heir in [c for c in classes.values() if merged.name in c.bases]:
            place = heir.bases.index(merged.name)
            heir.bases[place : place + 1] = merged.bases
            heir.attributes = sorted({*heir.attributes, *merged.attributes})
            heir.methods = sorted({*heir.methods, *merged.methods})
        classes = {node: c for node, c in classes.items() if c is not merged}
    public = list(classes.values())

    def family(base: Class) -> list[Class]:
        return [base, *(c for child in public if base.name in child.bases for c in family(child))]

    families = [family(c) for c in public if c.abstract and not c.bases]
    return sorted((f for f in families if len(f) > 1), key=len, reverse=True)


def shared(base: Class, classes: Iterable[Class]) -> bool:
    """Whether a class is what several families have in common: abstract ones derive from it, and it is not abstract."""
    return not base.abstract and any(base.name in c.bases for c in classes if c.abstract)


def parse(label: str) -> Class:
    """Read pyreverse's label, "<{name|attribute : type<br/>…|method(argument: type): type<br/>…}>"."""
    name, attributes, methods = re.split(r"(?<!\\)\|", re.fullmatch(r"<?\{(.*)\}>?", label)[1])

    def lines(compartment: str) -> list[str]:
        return [line for line in re.split(r"<br[^>]*>", compartment) if line]

    def signature(method: str) -> str:
        text = re.sub(r"</?I>|\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", method))
        called, arguments = re.match(r"(\w+)\((.*?)\)", text).groups()
        return f"{called}({', '.join(argument.split(':')[0].strip() for argument in arguments.split(','))})"

    return Class(
        name,
        [line.split(" :")[0] for line in lines(attributes)],
        [signature(line) for line in lines(methods)],
        {signature(line) for line in lines(methods) if "<I>" in line},
    )


def diagram(families: list[list[Class]]) -> pygraphviz.AGraph:
    """Return the drawing: abstract bases at the left with all they define, subclasses at the right with what they add.

    What the base has already is not repeated: every subclass defines the abstract methods of its base.
    """
    drawing = pygraphviz.AGraph(directed=True, rankdir="RL", nodesep=0.06, ranksep=0.25, margin=0, splines="line")
    drawing.node_attr.update(shape="plain", fontname=FONT, fontsize=FONT_SIZE)
    drawing.edge_attr.update(arrowhead="none", arrowsize=0.7, penwidth=0.7)
    for base, *subclasses in reversed(families):  # Graphviz stacks them from the bottom
        methods = [f"<I>{m}</I>" for m in base.methods if m in base.abstract]
        methods += [short(m) for m in base.methods if m not in base.abstract]
        drawing.add_node(base.name, label=box(f"<B><I>{base.name}</I></B>", BASE_WIDTH, base.attributes, methods))
        inherited = {*base.attributes, *map(short, base.methods)}
        for added in subclasses:
            new = [name for name in [*added.attributes, *map(short, added.methods)] if name not in inherited]
            lines = wrap(", ".join(new), CHARACTERS)
            drawing.add_node(added.name, label=box(f"<B>{added.name}</B>", SUBCLASS_WIDTH, lines))
        for parent in (base, *subclasses):
            join(drawing, parent.name, [c.name for c in subclasses if parent.name in c.bases])
    return drawing


def join(drawing: pygraphviz.AGraph, base: str, subclasses: list[str]) -> None:
    """Let lines from all `subclasses` meet in one arrow to `base`."""
    joints = [f"{name} to {base}" for name in subclasses]
    for name, joint in zip(subclasses, joints):
        drawing.add_node(joint, shape="point", width=0.01, penwidth=0)
        drawing.add_edge(name, joint, tailport="w", weight=10)  # heavy edges are level
    for pair in pairwise(joints):
        drawing.add_edge(*pair)
    if joints:
        drawing.add_subgraph(joints, rank="same")
        drawing.add_edge(joints[len(joints) // 2], base, arrowhead="empty")


def short(method: str) -> str:
    return method.split("(")[0] + "()"


def box(name: str, width: int, *compartments: list[str]) -> str:
    """Return Graphviz's table for a class: its name, then one compartment per list that is not empty."""
    cells = [f'<TD WIDTH="{width}">{name}</TD>']
    for lines in filter(None, compartments):
        rows = table([f'<TD ALIGN="LEFT" HEIGHT="{LINE_HEIGHT}">{line}</TD>' for line in lines], border=0, padding=0)
        cells.append(f'<TD ALIGN="LEFT">{rows}</TD>')
    return f"<{table(cells, border=1, padding=2)}>"


def table(cells: list[str], border: int, padding: int) -> str:
    rows = "".join(f"<TR>{cell}</TR>" for cell in cells)
    return f'<TABLE BORDER="0" CELLBORDER="{border}" CELLSPACING="0" CELLPADDING="{padding}">{rows}</TABLE>'


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
