"""The playground in a real browser: Chromium opens its notebook in a real JupyterLab on this machine, and plays.

What runs before what matters here: the tests are the chapters of one session, in this order.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = "notebooks/09_playground.ipynb"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TOKEN = "playground"
PATIENCE = 180_000
"""Milliseconds to wait for what takes some seconds at most on an idle machine."""

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
# JupyterLab's splash screen, shown twice within a fifth of a second, is removed twice, and the second time throws.
NO_SPLASH = "!document.getElementById('jupyterlab-splash')"
# Up to the cell that shows the playground: the others, which take longer, are run by nbval.
RUN = f"""async () => {{ {HELPERS}
    const source = (cell) => cell.sharedModel.getSource();
    panel.content.activeCellIndex = 1 + panel.content.widgets.findIndex(
        ({{ model }}) => model.type === "code" && source(model).startsWith("playground = Playground()"));
    const cells = code().slice(0, 1 + code().findIndex((cell) => source(cell).startsWith("playground = Playground()")));
    const failures = () => cells.flatMap((cell) => cell.outputs.toJSON()).filter((o) => o.output_type === "error");
    cells.forEach((cell) => {{ cell.clearExecution(); }});
    app.commands.execute("notebook:run-all-above");
    await until(() => failures().length || cells.every(done));
    return failures().map((failure) => failure.evalue);
}}"""
START = f"""{HELPERS}
    panel.content.activeCellIndex = panel.content.widgets.length - 1;
    await app.commands.execute("notebook:insert-cell-below");
    const cell = panel.content.activeCell.model;
    cell.sharedModel.setSource(source);
    app.commands.execute("notebook:run-cell");
"""
START_CELL = f"""async (source) => {{ {START} }}"""
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
    """Run a JupyterLab of its own on loopback, with a copy of the notebook, and yield its address."""
    work = folder / "work"
    (work / "notebooks").mkdir(parents=True)
    shutil.copy(ROOT / NOTEBOOK, work / NOTEBOOK)
    overrides = folder / "config" / "labconfig" / "default_setting_overrides.json"
    overrides.parent.mkdir(parents=True)
    overrides.write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}), encoding="utf-8"
    )
    kernel = folder / "data" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}), encoding="utf-8")
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
            assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
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
def open_browser() -> Iterator:
    """Yield a browser. While it is open, the thread it was opened on has a running event loop."""
    assert BROWSER, "where CI is set this test is required, but there is no Chromium: install it"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=BROWSER, args=flags)
        yield browser
        browser.close()


@contextmanager
def open_page(own: str, browser=None) -> Iterator:
    """Yield an empty page, 1024 px wide; `page.elsewhere` lists what is asked of other places than `own`."""
    with nullcontext(browser) if browser else open_browser() as browser:
        page = browser.new_page(viewport={"width": 1024, "height": 900})
        page.set_default_timeout(PATIENCE)
        allowed = (own, "data:", "blob:", "about:")
        page.elsewhere, page.errors = [], []
        page.on("request", lambda request: request.url.startswith(allowed) or page.elsewhere.append(request.url))
        page.on("pageerror", lambda error: page.errors.append(error.stack or str(error)))
        yield page
        page.close()


@contextmanager
def open_notebook(address: str) -> Iterator:
    """Yield the notebook's page, with a kernel."""
    with open_page(address) as page:
        page.goto(f"{address}/lab/tree/{NOTEBOOK}?token={TOKEN}")
        page.wait_for_function("window.jupyterapp")
        page.evaluate(READY)
        page.wait_for_function(NO_SPLASH)
        yield page


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("jupyter")) as address, open_notebook(address) as page:
        yield page


def until(page, found):
    """Wait until `found()` holds, while the page lives on."""
    end = time.monotonic() + PATIENCE / 1000
    while not found():
        assert time.monotonic() < end, f"waited in vain for {found}"
        page.wait_for_timeout(20)


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
                const data = lab.dataset, text = lab.querySelector(".status").textContent;
                return {condition};
            }}""",
            arg=self.index,
        )

    def says(self, line, words):
        """Wait until a line says so; if it never does, the failure shows what it says."""
        from playwright.sync_api import expect

        expect(self.root.locator(f"[data-number={line}]")).to_contain_text(words, timeout=PATIENCE)

    def press(self, action):
        self.root.locator(f"[data-action={action}]").click()

    def setting(self, name):
        return self.root.locator(f"[data-setting={name}]")

    def part(self, name):
        return self.root.locator(f"[data-part={name}]")

    def picture(self, part):
        return self.part(part).evaluate("(canvas) => canvas.toDataURL()")

    @property
    def epoch(self):
        return int(self.root.get_attribute("data-epoch"))


@pytest.fixture
def released(tmp_path):
    """A file for which a cell waits; it is there at the latest when the test is over."""
    path = tmp_path / "released"
    yield path
    path.touch()


@pytest.fixture(autouse=True)
def no_exception(page):
    """After every test: nothing failed in the page."""
    yield
    assert page.errors == []


@pytest.fixture
def lab(page):
    return Lab(page)


STILL = ".diy-still:has-text('This is a still picture. To play, run the cells above and then this one')"


def shows_still_picture(page):
    """Wait until a picture stands where the playground would be, drawn, and beside it what to do."""
    page.locator(STILL).first.scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('.diy-still img').naturalWidth > 300")
    assert page.locator(".diy-lab").count() == 0
    assert page.locator(STILL).first.is_visible()


def test_an_untrusted_notebook_shows_a_still_picture_that_says_so(page):
    trusted = "[...panel.content.model.cells].filter((cell) => cell.type === 'code').every((cell) => cell.trusted)"
    assert not page.evaluate(f"async () => {{ {HELPERS} return {trusted}; }}")
    shows_still_picture(page)


def test_the_cells_above_and_its_own_bring_it_to_life(page, lab):
    assert page.evaluate(RUN) == []
    lab.root.scroll_into_view_if_needed()
    lab.until("data.frames > 0 && data.epoch === '0' && data.playing === 'false' && text.startsWith('Ready')")


NAMED = "application|button|checkbox|combobox|img|radio|radiogroup|slider|spinbutton"
CUT = """(lab) => [...lab.querySelectorAll('button, select, .name')].filter((part) => {
    const pen = document.createElement('canvas').getContext('2d');
    pen.font = getComputedStyle(part).font;
    const texts = [...(part.options ?? [])].map((option) => pen.measureText(option.textContent).width);
    return part.checkVisibility() && Math.max(part.scrollWidth, ...texts.map((text) => text + 20)) > part.clientWidth;
}).map((part) => part.textContent)"""


def test_it_fits_into_1024_pixels_and_every_control_and_picture_has_a_name(page, lab):
    for panel in ("inside", "code"):
        lab.press(panel)
    lab.root.locator("[data-hand=unit]").fill("3")
    lab.root.locator("[data-hand=unit]").press("Tab")
    lab.says("hand", "They agree.")
    assert lab.root.evaluate("(lab) => lab.scrollWidth <= lab.clientWidth")
    assert lab.root.evaluate(CUT) == []
    tops = [radio.bounding_box()["y"] for radio in lab.root.get_by_role("radio").all()]
    assert tops[0] == tops[1]
    snapshot = lab.root.aria_snapshot()
    assert re.findall(rf"^ *- (?:{NAMED})\b(?! \S).*", snapshot, re.MULTILINE) == []
    for name in (
        *('button "▶ Play"', 'combobox "data set"', 'slider "learning rate"', 'checkbox "xy"', 'radio "● class 0"'),
        *('combobox "leading to"', 'spinbutton "unit"', 'spinbutton "from input (−1: bias)"'),
        *('application "The plane', 'img "Loss', 'img "layer 1, ReLU: no gradient yet', 'img "What each unit computes'),
        *('img "The loss along this weight', 'group "the program of this run"'),
    ):
        assert name in snapshot, snapshot


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(page, lab):
    page.evaluate("""() => {
        window.controls = [...document.querySelectorAll(
            '.diy-lab :is(button, select, input, summary, [tabindex]):not([type=radio]:not(:checked))')]
            .filter((part) => part.checkVisibility() && !part.disabled);
        controls[0].focus();
    }""")
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")
    for number in range(page.evaluate("controls.length")):
        found = page.evaluate(
            """() => { const { width, outlineWidth } = getComputedStyle(document.activeElement);
                return [controls.indexOf(document.activeElement), outlineWidth]; }"""
        )
        assert found == [number, "3px"], page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
        page.keyboard.press("Tab")
    for panel in ("inside", "code"):
        lab.press(panel)


def test_playing_moves_epochs_and_pictures_while_another_cell_runs(page, lab):
    before = {part: lab.picture(part) for part in ("plane", "loss", "layers")}
    lab.press("play")
    lab.until("data.playing === 'true' && +data.epoch >= 5")
    for part, old in before.items():
        assert lab.picture(part) != old
    assert page.evaluate(RUN_IN_NEW_CELL, "print(6 * 7)").strip() == "42"
    lab.root.scroll_into_view_if_needed()  # the new cell has taken its place on screen, and out of sight it waits
    lab.until(f"+data.epoch > {lab.epoch}")


def test_the_learning_rate_moves_by_keyboard_while_it_plays(page, lab):
    lab.setting("lr").focus()
    page.keyboard.press("ArrowRight")
    lab.until("text.startsWith('Learning rate: lr=0.002.')")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    lab.until("text.startsWith('Learning rate: lr=0.0005.') && data.playing === 'true'")
    assert lab.setting("lr").get_attribute("aria-valuetext") == "0.0005"


def test_another_architecture_restarts_and_plays_on(lab):
    lab.until("+data.epoch >= 30")
    lab.setting("depth").press("ArrowLeft")
    lab.until("text.startsWith('Hidden layers: depth=2.') && data.playing === 'true' && +data.epoch >= 3")
    lab.setting("depth").press("End")
    lab.until("text.startsWith('Hidden layers: depth=6.') && +data.epoch >= 3")
    lab.setting("depth").press("Home")
    for _ in range(2):
        lab.setting("depth").press("ArrowRight")
    lab.until("text.startsWith('Hidden layers: depth=2.')")


def test_in_a_long_epoch_the_batches_are_counted(lab):
    lab.setting("speed").select_option("10 epochs per picture")
    lab.setting("batch_size").press("Home")
    counts = set()
    until(lab.page, lambda: counts.add(lab.root.locator("[data-number=epoch]").inner_text()) or len(counts) > 3)
    assert all(re.fullmatch(r"\d+( \+ \d+/\d+)?", count) for count in counts), counts
    lab.setting("batch_size").press("End")
    for _ in range(3):
        lab.setting("batch_size").press("ArrowLeft")
    lab.setting("speed").select_option("1 epoch per picture")
    lab.until("text.startsWith('speed=')")


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
    assert "Cross at (0.00, 0.05), on your point" not in lab.root.locator(".where").inner_text()
    page.keyboard.press("ArrowUp")
    assert lab.root.locator(".where").inner_text().startswith("Cross at (0.00, 0.10)")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    lab.until("text.startsWith('There is a point of class 0 at (0.00, 0.05) already')")
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    lab.until("text === 'Moved to (0.05, 0.05).'")
    assert lab.root.locator(".where").inner_text() == ""  # no longer "Enter puts the point down."
    page.keyboard.press("Delete")
    lab.until("text.startsWith('Removed the point of class 0')")
    page.keyboard.press("Control+z")
    lab.until("text.startsWith('Undone')")
    for key in ("m", "ArrowRight", "Delete"):  # a point that is carried
        page.keyboard.press(key)
    lab.until("text === 'Removed the point of class 0 at (0.05, 0.05).'")
    assert lab.root.locator(".where").inner_text() == ""
    for key in ("ArrowLeft", "Control+z"):
        page.keyboard.press(key)
    lab.until("text.startsWith('Undone')")
    lab.root.get_by_role("radio", name="class 0").focus()
    lab.part("plane").focus()  # the cross has waited
    page.keyboard.press("ArrowDown")
    assert lab.root.locator(".where").inner_text().startswith("Cross at (0.05, 0.00)")


def test_a_point_is_dragged_and_dragged_out(page, lab):
    box = lab.part("plane").bounding_box()
    place = lambda x, y: (box["x"] + x * box["width"], box["y"] + y * box["height"])  # noqa: E731
    page.mouse.move(*place(0.8, 0.3))
    page.mouse.down()
    page.mouse.move(*place(0.7, 0.3), steps=3)
    page.mouse.up()
    lab.until("text.startsWith('Moved to (0.5')")
    page.mouse.move(*place(0.7, 0.3))
    page.mouse.down()
    page.mouse.move(*place(1.1, 0.3), steps=3)
    page.mouse.up()
    lab.until("text.startsWith('Removed the point of class 1')")
    lab.press("clear")
    lab.until("text.startsWith('Your points are removed.')")
    assert page.evaluate("document.activeElement.dataset.action") == "clear"


def test_a_diverged_run_stops_and_says_why(page, lab):
    lab.setting("lr").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    lab.until("text.startsWith('Learning rate: lr=0.2.')")
    lab.press("play")
    lab.until("data.playing === 'false' && data.kind === 'trouble' && text.startsWith('Diverged')")
    for _ in range(7):
        lab.setting("lr").press("ArrowLeft")
    lab.until("text === 'Learning rate: lr=0.001. The run on screen is lost: press Play to start a new one.'")
    lab.press("play")
    lab.until("data.playing === 'true' && data.kind === 'fine' && +data.epoch >= 3")


def test_the_twin_joins_the_run_and_lies_on_the_curve(lab):
    epoch = lab.epoch
    lab.setting("twin").click()
    lab.until(f"text.includes('learns beside it') && +data.epoch >= {epoch + 3} && data.playing === 'true'")
    words = lab.root.locator("[data-number=twin]").inner_text()
    assert "agree within" in words or "to the last bit" in words


def test_the_code_is_one_click_away(page, lab):
    lab.press("play")
    lab.until("data.playing === 'false'")
    lab.press("code")
    lab.until("lab.querySelector('pre').textContent.includes('model.backward(criterion.backward())')")
    assert lab.root.locator("[data-action=code]").inner_text() == "Hide the code"
    program = lab.root.locator("pre").inner_text()
    assert "diy.Linear(2, 25), diy.ReLU()," in program
    assert page.evaluate(RUN_IN_NEW_CELL, program).startswith("train loss 0.")


def test_the_code_follows_while_it_plays(lab):
    lab.press("play")
    lab.until("data.playing === 'true'")
    first = lab.root.locator("pre").inner_text()
    lab.page.wait_for_function("(old) => document.querySelector('.diy-lab pre').textContent !== old", arg=first)
    lab.press("play")
    lab.until("data.playing === 'false'")
    lab.press("code")


def block_kernel(page, released):
    """Start a cell that runs until the file `released` is there; return once it runs.

    What JupyterLab says of the kernel would not tell: it also calls it idle when it has dealt with a widget's message.
    """
    runs = released.with_suffix(".runs")
    for file in released, runs:
        file.unlink(missing_ok=True)
    waiting = f"while not os.path.exists({str(released)!r}): time.sleep(0.01)"
    page.evaluate(START_CELL, f"import os, time\nopen({str(runs)!r}, 'w').close()\n{waiting}")
    until(page, runs.exists)


def test_an_answer_ends_the_waiting_even_if_it_is_the_same_again(page, lab, released):
    lab.setting("data").select_option("own points")
    lab.until("text.startsWith('Data set: data=')")
    for action in ("step", "step", "play", "play"):
        lab.press(action)
        lab.until("data.waiting === 'false' && text.startsWith('There is nothing to learn yet')")
    lab.setting("data").select_option("circle")
    lab.until("text.includes(\"data='circle'\")")
    block_kernel(page, released)
    lab.press("step")
    lab.until("data.waiting === 'true' && text.startsWith('The kernel does not answer')")
    released.touch()
    lab.until("data.waiting === 'false' && text.startsWith('One step')")


def test_a_cell_that_blocks_is_told_of_while_it_plays(page, lab, released):
    lab.press("play")
    lab.until("+data.epoch >= 1")
    block_kernel(page, released)
    lab.root.scroll_into_view_if_needed()
    lab.until("text.startsWith('The kernel does not answer')")
    released.touch()
    lab.until("text === 'Playing.' && data.playing === 'true'")
    lab.press("play")
    lab.until("data.playing === 'false'")


def test_looking_inside_and_a_weight_in_hand(page, lab):
    lab.press("inside")
    page.wait_for_function("document.querySelector('[data-part=network]').clientHeight > 300")
    lab.root.locator("[data-hand=layer]").select_option("layer 2")
    for name, value in (("unit", 99), ("input", 3)):
        lab.root.locator(f"[data-hand={name}]").fill(str(value))
        lab.root.locator(f"[data-hand={name}]").press("Tab")
    assert lab.root.locator("[data-hand=unit]").input_value() == "24"  # the last one
    lab.says("hand", "They agree.")
    lab.root.locator("[data-hand=value]").fill("0.5")
    lab.until("text.startsWith('The weight in hand is')")
    lab.press("inside")


def test_a_bug_for_company(page, lab):
    lab.setting("bug").select_option("dropped-transpose")
    lab.until("text.startsWith(\"bug='dropped-transpose'\")")
    lab.press("play")
    lab.until("+data.epoch >= 3")
    lab.press("play")
    assert "healthy twin" in lab.root.locator("[data-number=twin]").inner_text()
    lab.press("ask_checks")
    lab.until("text.endsWith('Below they say what they found.')")
    seen = {row.get_attribute("data-check") for row in lab.root.locator("li[data-sees=true]").all()}
    assert seen == {"finite differences", "autograd", "side by side", "training"}
    lab.setting("bug").select_option("none")
    lab.until("text.startsWith('No bug')")
    lab.part("story").wait_for(state="hidden")


@pytest.mark.parametrize("kind", ["png", "gif"])
def test_the_run_is_saved_as_a_file(page, lab, kind):
    with page.expect_download() as download:
        lab.root.get_by_role("button", name=f"Save {kind.upper()}").click()
    assert download.value.suggested_filename.endswith(f".{kind}")
    lab.until("text.startsWith('The browser has been sent')")


def test_out_of_sight_nothing_is_drawn_or_trained(page, lab):
    lab.press("play")
    lab.until("+data.epoch >= 1")
    page.evaluate("() => { window.jupyterapp.commands.execute('launcher:create'); }")
    lab.until("data.playing === 'false'")
    epoch = lab.epoch
    page.evaluate("""() => { const shell = window.jupyterapp.shell;
        shell.activateById([...shell.widgets("main")].find((w) => w.context?.path.endsWith(".ipynb")).id); }""")
    lab.root.scroll_into_view_if_needed()
    lab.until(f"data.playing === 'true' && +data.epoch > {epoch}")
    lab.press("play")
    lab.until("data.playing === 'false'")


@pytest.mark.parametrize("width, height", [(1280, 720), (620, 800)])
def test_play_each_setting_and_the_picture_are_on_one_screen_beside_the_file_browser(page, lab, width, height):
    page.set_viewport_size({"width": width, "height": height})

    def outside(name):
        """What does not stand wholly on the screen once the setting is scrolled to."""
        lab.root.evaluate("(lab) => lab.scrollIntoView({ block: 'start' })")
        lab.setting(name).evaluate("(setting) => setting.scrollIntoView({ block: 'nearest' })")
        screen, found = page.locator(".jp-WindowedPanel-outer").first.bounding_box(), []
        for node in (lab.root.locator("[data-action=play]"), lab.part("plane"), lab.setting(name)):
            box = node.bounding_box()
            above = box["y"] < screen["y"] - 1 or box["width"] <= 40
            if above or box["y"] + box["height"] > screen["y"] + screen["height"] + 1:
                found.append(box)
        return found

    for name in ("data", "noise", "width", "lr", "weight_decay", "bug"):
        # JupyterLab lays itself out anew some time after its window has changed.
        until(page, lambda name=name: not outside(name))
    assert lab.root.evaluate("(lab) => lab.scrollWidth <= lab.clientWidth")
    page.set_viewport_size({"width": 1024, "height": 900})
    lab.root.scroll_into_view_if_needed()


def test_the_theme_is_jupyterlabs(page, lab):
    light = lab.root.evaluate("(lab) => getComputedStyle(lab).backgroundColor")
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
    page.wait_for_function(f"document.body.dataset.jpThemeLight === 'false' && {NO_SPLASH}")
    assert (light, lab.root.evaluate("(lab) => getComputedStyle(lab).backgroundColor")) == (
        "rgb(255, 255, 255)",
        "rgb(26, 26, 26)",
    )
    page.evaluate("window.jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Light' })")
    page.wait_for_function(f"document.body.dataset.jpThemeLight === 'true' && {NO_SPLASH}")


def test_what_a_cell_changes_moves_the_controls(page, lab):
    page.evaluate(RUN_IN_NEW_CELL, "playground.lab.change(lr=0.003)")
    page.wait_for_function("document.querySelector('[data-setting=lr]').getAttribute('aria-valuetext') === '0.003'")
    lab.setting("lr").press("ArrowLeft")
    lab.until("text.startsWith('Learning rate: lr=0.002.')")


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
    second.root.scroll_into_view_if_needed()
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
    explained = "text === 'The kernel was restarted: run the cells above and this one again.'"
    for press in (lambda: None, lambda: lab.press("step"), lambda: lab.press("play")):
        press()
        lab.until(f"data.playing === 'false' && {explained}")
        assert lab.root.locator("[data-action=play]").inner_text() == "▶ Play"


def test_after_a_restart_and_a_reload_the_picture_says_what_to_do(page, lab):
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    page.wait_for_function("window.jupyterapp")
    page.evaluate(READY)
    page.wait_for_function(NO_SPLASH)
    shows_still_picture(page)
    assert page.evaluate(RUN) == []
    lab.root.scroll_into_view_if_needed()
    lab.until("data.frames > 0 && text.startsWith('Ready')")


def test_nothing_came_from_elsewhere(page):
    assert page.elsewhere == []
