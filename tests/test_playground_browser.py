"""The playground in a real browser: Chromium opens its notebook in a real JupyterLab on this machine, and plays.

What runs before what matters here: the tests are the chapters of one session, in this order.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = "notebooks/07_playground.ipynb"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "playground"
PATIENCE = 60_000
"""Milliseconds to wait for what takes a fraction of a second on an idle machine."""

if BROWSER is None and not os.environ.get("CI"):
    pytest.skip("no Chromium found: install it to run the playground's browser test", allow_module_level=True)

# What runs in the page. That the kernel is idle does not tell that all cells ran: between two of them it is, too.
HELPERS = f"""
    const until = async (found) => {{
        for (const end = Date.now() + {PATIENCE}; Date.now() < end;) {{
            const result = found();
            if (result) return result;
            await new Promise((resolve) => setTimeout(resolve, 50));
        }}
        throw new Error(`waited in vain for ${{found}}`);
    }};
    const app = window.jupyterapp;
    await app.restored;
    const panel = await until(() => [...app.shell.widgets("main")].find((w) => w.context?.path.endsWith(".ipynb")));
    await panel.context.ready;
    await panel.sessionContext.ready;
    const idle = () => {{
        const kernel = panel.sessionContext.session?.kernel;
        return kernel?.connectionStatus === "connected" && kernel.status === "idle";
    }};
    const code = () => [...panel.content.model.cells].filter((cell) => cell.type === "code");
    const done = (cell) => cell.executionCount && cell.executionState !== "running";
"""
READY = f"async () => {{ {HELPERS} await until(idle); }}"
RUN_ALL = f"""async () => {{ {HELPERS}
    code().forEach((cell) => {{ cell.clearExecution(); }});
    app.commands.execute("notebook:run-all-cells");
}}"""
ALL_RAN = f"""async () => {{ {HELPERS}
    const failures = () => code().flatMap((cell) => cell.outputs.toJSON()).filter((o) => o.output_type === "error");
    await until(() => failures().length || (code().every(done) && idle()));
    return failures().map((failure) => failure.evalue);
}}"""
START = f"""{HELPERS}
    panel.content.activeCellIndex = panel.content.widgets.length - 1;
    await app.commands.execute("notebook:insert-cell-below");
    const cell = panel.content.activeCell.model;
    cell.sharedModel.setSource(source);
    app.commands.execute("notebook:run-cell");
"""
START_NEW_CELL = f"""async (source) => {{ {START} await until(() => !idle()); }}"""
RUN_IN_NEW_CELL = f"""async (source) => {{ {START}
    await until(() => done(cell));
    return cell.outputs.toJSON().map((output) => output.text || "").join("");
}}"""
CLEAR_OUTPUT = f"""async () => {{ {HELPERS}
    await app.commands.execute("notebook:clear-cell-output");
}}"""
CLEAR_OUTPUTS = f"""async () => {{ {HELPERS}
    await app.commands.execute("notebook:clear-all-cell-outputs");
}}"""
RESTART = f"""async () => {{ {HELPERS}
    await panel.sessionContext.session.kernel.restart();
    await until(idle);
}}"""


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Run a JupyterLab of its own on loopback, with a copy of what the notebook needs, and yield its address."""
    work = folder / "work"
    (work / "notebooks").mkdir(parents=True)
    for path in (*ROOT.glob("*.py"), *ROOT.glob("notebooks/course.*"), ROOT / NOTEBOOK):
        shutil.copy(path, work / path.relative_to(ROOT))
    for name in ("playground", "notebooks/checkers"):
        shutil.copytree(ROOT / name, work / name, ignore=shutil.ignore_patterns("__pycache__"))
    overrides = folder / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}))
    kernel = folder / "data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": work,
        "IdentityProvider.token": TOKEN,
        "LabApp.expose_app_in_browser": True,
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    private = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    private |= {"IPYTHONDIR": str(folder / "ipython"), "OMP_NUM_THREADS": "1"}
    address = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
            + [f"--{name}={value}" for name, value in options.items()],
            env=os.environ | private,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def open_notebook(address: str) -> Iterator:
    """Yield the notebook's page, with a kernel, 1024 px wide; `page.elsewhere` lists what was asked of other hosts."""
    assert BROWSER, "where CI is set this test is required, but there is no Chromium: install it"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        page = browser.new_page(viewport={"width": 1024, "height": 900})
        page.set_default_timeout(PATIENCE)
        own = (address, "data:", "blob:", "about:")
        page.elsewhere, page.errors = [], []
        page.on("request", lambda request: request.url.startswith(own) or page.elsewhere.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(str(error)))
        page.goto(f"{address}/lab/tree/{NOTEBOOK}?token={TOKEN}")
        page.wait_for_function("window.jupyterapp")
        page.evaluate(READY)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("jupyter")) as address, open_notebook(address) as page:
        yield page


class Lab:
    """A playground on the page, the first or a later one."""

    def __init__(self, page, index=0):
        self.page, self.index = page, index
        self.root = page.locator(".diy-lab").nth(index)

    def until(self, condition):
        """Wait until a JavaScript condition on `data`, the attributes, and `text`, that of the status line, holds."""
        return self.page.wait_for_function(
            f"""(index) => {{
                const lab = document.querySelectorAll(".diy-lab")[index];
                if (!lab) return false;
                const data = lab.dataset, text = lab.querySelector("[role=status]").textContent;
                return {condition};
            }}""",
            arg=self.index,
        )

    def press(self, action):
        self.root.locator(f"[data-action={action}]").click()

    def setting(self, name):
        return self.root.locator(f"[data-setting={name}]")

    def part(self, name):
        return self.root.locator(f"[data-part={name}]")

    def cut(self):
        """The texts in the pictures that do not fit."""
        return self.part("loss").get_attribute("data-cut") + self.part("layers").get_attribute("data-cut")

    def picture(self, part):
        return self.part(part).evaluate("(canvas) => canvas.toDataURL()")

    @property
    def epoch(self):
        return int(self.root.get_attribute("data-epoch"))


@pytest.fixture
def lab(page):
    return Lab(page)


def test_all_cells_run(page, lab):
    page.evaluate(RUN_ALL)
    assert page.evaluate(ALL_RAN) == []
    lab.root.scroll_into_view_if_needed()
    lab.until("data.frames > 0 && data.epoch === '0' && data.playing === 'false' && text.startsWith('Ready')")


def test_it_fits_into_1024_pixels_and_every_control_has_a_name(page, lab):
    assert lab.root.evaluate("(lab) => lab.scrollWidth <= lab.clientWidth")
    cut = "[...lab.querySelectorAll('button, select, .name')].filter((part) => part.scrollWidth > part.clientWidth)"
    assert lab.root.evaluate(f"(lab) => {cut}.map((part) => part.textContent)") == []
    assert lab.cut() == ""
    tops = [radio.bounding_box()["y"] for radio in lab.root.get_by_role("radio").all()]
    assert tops[0] == tops[1]
    snapshot = lab.root.aria_snapshot()
    for name in ("Play", "Step", "Epoch", "Reset", "Show the code"):
        assert f'button "{name}"' in snapshot or f'button "▶ {name}"' in snapshot, snapshot
    for name in ("Speed", "data set", "activation", "loss reduction", "optimizer"):
        assert f'combobox "{name}' in snapshot, snapshot
    for name in ("noise", "hidden layers", "width", "dropout", "init scale", "learning rate", "batch size"):
        assert f'slider "{name}' in snapshot, snapshot
    for name in ('checkbox "train a PyTorch twin beside"', 'radio "● class 0"', 'application "The plane', 'img "Loss'):
        assert name in snapshot, snapshot


def test_playing_moves_epochs_and_pictures_while_another_cell_runs(page, lab):
    before = {part: lab.picture(part) for part in ("plane", "loss", "layers")}
    lab.press("play")
    lab.until("data.playing === 'true' && +data.epoch >= 5")
    for part, old in before.items():
        assert lab.picture(part) != old
    assert lab.cut() == ""
    assert page.evaluate(RUN_IN_NEW_CELL, "print(6 * 7)").strip() == "42"
    lab.until(f"+data.epoch > {lab.epoch}")


def test_the_learning_rate_moves_by_keyboard_while_it_plays(page, lab):
    lab.setting("lr").focus()
    page.keyboard.press("ArrowRight")
    lab.until("text === 'Learning rate: 0.002.'")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    lab.until("text === 'Learning rate: 0.0005.' && data.playing === 'true'")
    assert lab.setting("lr").get_attribute("aria-valuetext") == "5e-4"


def test_another_architecture_restarts_and_plays_on(lab):
    lab.until("+data.epoch >= 30")
    lab.setting("depth").press("ArrowLeft")
    lab.until("text.startsWith('Hidden layers: 2.') && data.playing === 'true' && +data.epoch >= 3")
    lab.setting("depth").press("End")
    lab.until("text.startsWith('Hidden layers: 6.') && +data.epoch >= 3")
    assert lab.cut() == ""
    lab.setting("depth").press("Home")
    for _ in range(2):
        lab.setting("depth").press("ArrowRight")
    lab.until("text.startsWith('Hidden layers: 2.')")


def test_pause_and_step(lab):
    lab.press("play")
    lab.until("data.playing === 'false' && text === 'Paused.'")
    lab.press("reset")
    lab.until("data.epoch === '0'")
    lab.press("step")
    lab.until("lab.querySelector('[data-number=epoch]').textContent === '0 + 1/10'")
    lab.press("epoch")
    lab.until("data.epoch === '1'")


def test_points_are_added_by_click_and_by_keyboard(page, lab):
    box = lab.part("plane").bounding_box()
    before = lab.picture("plane")
    lab.part("plane").click(position={"x": 0.8 * box["width"], "y": 0.3 * box["height"]})
    lab.until("text.startsWith('Added a point of class 1 at (0.7')")
    page.wait_for_function("(old) => document.querySelector('[data-part=plane]').toDataURL() !== old", arg=before)
    lab.root.get_by_role("radio", name="class 0").check()
    lab.part("plane").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    lab.until("text === 'Added a point of class 0 at (0.00, 0.05).'")
    lab.press("clear")
    lab.until("text === 'Your points are removed.'")


def test_a_diverged_run_stops_and_says_why(page, lab):
    lab.setting("lr").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    lab.until("text === 'Learning rate: 0.2.'")
    lab.press("play")
    lab.until("data.playing === 'false' && data.kind === 'trouble' && text.startsWith('Diverged')")
    for _ in range(7):
        lab.setting("lr").press("ArrowLeft")
    lab.until("text === 'Learning rate: 0.001. The run on screen is lost: press Play to begin a new one.'")
    lab.press("play")
    lab.until("data.playing === 'true' && data.kind === 'fine' && +data.epoch >= 3")


def test_the_twin_lies_on_the_curve(lab):
    lab.setting("twin").check()
    lab.until("text.includes('PyTorch') && +data.epoch >= 3 && data.playing === 'true'")
    assert "agree within" in lab.root.locator("[data-number=twin]").inner_text()


def test_the_code_is_one_click_away(page, lab):
    lab.press("play")
    lab.until("data.playing === 'false'")
    lab.press("code")
    lab.until("lab.querySelector('pre').textContent.includes('model.backward(criterion.backward())')")
    program = lab.root.locator("pre").inner_text()
    assert "diy.Linear(2, 25), diy.ReLU()," in program
    assert page.evaluate(RUN_IN_NEW_CELL, program).startswith("train loss 0.")


def test_an_answer_ends_the_waiting_even_if_it_is_the_same_again(page, lab):
    for _ in range(3):
        lab.press("code")
        lab.until("data.waiting === 'false'")
    lab.setting("data").select_option("own points")
    lab.until("text.startsWith('Data set: own points.')")
    for action in ("step", "step", "play", "play"):
        lab.press(action)
        lab.until("data.waiting === 'false' && text.startsWith('There is nothing to learn yet')")
    lab.setting("data").select_option("circle")
    lab.until("text.startsWith('Data set: circle.')")
    page.evaluate(START_NEW_CELL, "import time; time.sleep(2)")
    lab.press("epoch")
    lab.press("epoch")
    lab.until("text === 'Waiting for the kernel: another cell is running.'")
    lab.until("data.waiting === 'false' && text.startsWith('One epoch') && data.epoch === '2'")


def test_what_a_cell_changes_moves_the_controls(page, lab):
    page.evaluate(RUN_IN_NEW_CELL, "playground.lab.change(lr=0.003)")
    page.wait_for_function("document.querySelector('[data-setting=lr]').getAttribute('aria-valuetext') === '0.003'")
    lab.setting("lr").press("ArrowLeft")
    lab.until("text === 'Learning rate: 0.002.'")


def test_two_labs_live_in_one_notebook_and_closing_the_output_stops_them(page, lab):
    lab.root.get_by_role("radio", name="class 1").check()
    page.evaluate(RUN_IN_NEW_CELL, "second = Playground(data='xor')\nsecond")
    second = Lab(page, 1)
    second.root.scroll_into_view_if_needed()
    second.until("data.epoch === '0'")
    for each in (lab, second):
        assert each.root.get_by_role("radio", checked=True).count() == 1
    lab.part("plane").click()
    lab.until("text.startsWith('Added a point of class 1')")
    epoch = lab.epoch
    second.press("play")
    second.until("+data.epoch >= 3")
    assert lab.epoch == epoch and lab.root.get_attribute("data-playing") == "false"
    page.evaluate(RUN_IN_NEW_CELL, "second")
    Lab(page, 2).until("data.playing === 'true'")
    page.evaluate(CLEAR_OUTPUT)
    page.wait_for_function("document.querySelectorAll('.diy-lab').length === 2")
    second.until(f"+data.epoch > {second.epoch + 30}")  # its other view was closed, and it plays on
    page.evaluate(CLEAR_OUTPUTS)
    page.wait_for_function("!document.querySelector('.diy-lab')")
    stopped = "import asyncio\nwhile second.playing:\n    await asyncio.sleep(0.01)\nprint('stopped')"
    assert page.evaluate(RUN_IN_NEW_CELL, stopped) == "stopped\n"


def test_a_restart_of_the_kernel_is_explained(page, lab):
    page.evaluate(RUN_IN_NEW_CELL, "Playground()")
    lab.root.scroll_into_view_if_needed()
    lab.press("play")
    lab.until("+data.epoch >= 3")
    page.evaluate(RESTART)
    explained = "text === 'The kernel was restarted: run the first cell and this one again.'"
    for press in (lambda: None, lambda: lab.press("step"), lambda: lab.press("play")):
        press()
        lab.until(f"data.playing === 'false' && {explained}")
        assert lab.root.locator("[data-action=play]").inner_text() == "▶ Play"


def test_without_a_kernel_a_slider_moves_through_the_recorded_run(page):
    notebook = json.loads((ROOT / NOTEBOOK).read_text())
    outputs = [output.get("data", {}) for cell in notebook["cells"] for output in cell.get("outputs", [])]
    recording = next("".join(data["text/html"]) for data in outputs if "data-frames" in str(data.get("text/html")))
    preview = page.context.browser.new_page()
    preview.set_content(recording)
    assert preview.locator("output").inner_text().startswith("Epoch 100: test loss 0.0")
    last = preview.locator("img").get_attribute("src")
    preview.locator("input").press("Home")
    assert preview.locator("output").inner_text().startswith("Epoch 0: test loss")
    assert preview.locator("img").get_attribute("src") != last
    width = preview.locator("img").evaluate("async (image) => { await image.decode(); return image.naturalWidth; }")
    assert width == 540
    preview.close()


def test_nothing_came_from_elsewhere_and_nothing_failed_in_the_page(page):
    assert page.elsewhere == []
    assert [error for error in page.errors if "ResizeObserver" not in error] == []
