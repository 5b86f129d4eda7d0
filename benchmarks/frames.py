"""How smoothly the playground plays: the pictures per second that a real browser draws while the report's model learns.

    python -m benchmarks.frames                # pictures per second, at each speed
    python -m benchmarks.frames --minutes 8    # what grows meanwhile: the messages, the kernel, the page

JupyterLab, the kernel and the browser run on this machine, with the helpers of the browser test. A load above 1 before
the start means that something else took time too.
"""

from experiments.begin import begin_command

if __name__ == "__main__":
    begin_command("python -m benchmarks.frames")

import argparse
import os
import tempfile
import time
from pathlib import Path

from experiments.commandline import run_command
from tests.playground.test_playground_browser import RUN_IN_NEW_CELL, Lab, open_notebook, serve

PROG = "python -m benchmarks.frames"
SECONDS = 10
SETUP = """
import psutil
from playground.view import SPEEDS, Playground
playground = Playground()
print(*SPEEDS, sep=",")
"""
GROWTH = """
sizes = [len(value) for value in playground.frame.values() if isinstance(value, bytes)]
print(sum(sizes) + len(str(playground.frame["layers"])), psutil.Process().memory_info().rss)
"""


def rates(lab: Lab, speeds: list[str]) -> None:
    """Print how many pictures a second are drawn, at each speed."""
    for speed in speeds:
        lab.setting("speed").select_option(speed)
        lab.until("text.startsWith('speed=') && data.playing === 'true'")
        before, start = int(lab.root.get_attribute("data-frames")), time.perf_counter()
        time.sleep(SECONDS)
        frames = int(lab.root.get_attribute("data-frames")) - before
        print(f"{speed}: {frames / (time.perf_counter() - start):.0f} frames per second", flush=True)


def growth(page, lab: Lab, minutes: int) -> None:
    """Print every minute what may grow: a frame's size, the kernel's memory, and what the page holds."""
    session = page.context.new_cdp_session(page)
    for minute in range(minutes + 1):
        frame, kernel = map(int, page.evaluate(RUN_IN_NEW_CELL, GROWTH).split())
        session.send("HeapProfiler.collectGarbage")
        heap = session.send("Runtime.getHeapUsage")["usedSize"]
        print(
            f"minute {minute}, epoch {lab.epoch}: a frame of {frame / 1e3:.0f} kB, "
            f"kernel {kernel / 1e6:.0f} MB, page {heap / 1e6:.1f} MB",
            flush=True,
        )
        lab.root.scroll_into_view_if_needed()
        if minute < minutes:
            time.sleep(60)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog=PROG, description="Watch the playground play in a real browser.")
    parser.add_argument("--minutes", type=int, default=0, help="play for this long, and print every minute what grows")
    minutes = parser.parse_args(arguments).minutes
    if minutes < 0:
        parser.error(f"argument --minutes: must be at least 0, got {minutes}")
    print(f"{os.cpu_count()} processors, load before the start {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as address, open_notebook(address) as page:
        speeds = page.evaluate(RUN_IN_NEW_CELL, SETUP).strip().split(",")
        page.evaluate(RUN_IN_NEW_CELL, "playground")
        lab = Lab(page)
        lab.root.scroll_into_view_if_needed()
        lab.press("play")
        if minutes:
            growth(page, lab, minutes)
        else:
            rates(lab, speeds)


if __name__ == "__main__":
    run_command(PROG, main, "nothing is kept")
