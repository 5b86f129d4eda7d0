"""How smoothly the playground plays: the pictures per second that a real browser draws while the report's model learns.

    python -m benchmarks.frames

JupyterLab, the kernel and the browser run on this machine, as in the browser test, whose helpers these are. A load
above 1 before the start means that something else took time too.
"""

import os
import tempfile
import time
from pathlib import Path

from tests.test_playground_browser import RUN_IN_NEW_CELL, Lab, open_notebook, serve

SECONDS = 10
SETUP = "from playground.view import SPEEDS, Playground\nprint(*SPEEDS, sep=',')"


def main() -> None:
    print(f"{os.cpu_count()} processors, load before the start {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as address, open_notebook(address) as page:
        speeds = page.evaluate(RUN_IN_NEW_CELL, SETUP).strip().split(",")
        page.evaluate(RUN_IN_NEW_CELL, "Playground()")
        lab = Lab(page)
        lab.root.scroll_into_view_if_needed()
        lab.press("play")
        for speed in speeds:
            lab.setting("speed").select_option(speed)
            lab.until("text.startsWith('speed=') && data.playing === 'true'")
            before, start = int(lab.root.get_attribute("data-frames")), time.perf_counter()
            time.sleep(SECONDS)
            frames = int(lab.root.get_attribute("data-frames")) - before
            print(f"{speed}: {frames / (time.perf_counter() - start):.0f} frames per second")


if __name__ == "__main__":
    main()
