"""The page of recorded runs, in a real browser, from a file: no server, no kernel, no network."""

import base64
import gzip
import json
import re
from dataclasses import fields

import pytest
import torch

from playground import page as recorder
from playground.lab import Lab, Settings
from tests.playground.test_playground_browser import ROOT, open_browser, open_page, until
from tests.playground.test_playground_browser import Lab as OnScreen

EPOCHS = (0, 1, 2, 5, 10)
SMALL = dict(train_size=100, test_size=50, width=4, batch_size=50)
RUNS = (
    {},
    {"lr": 0.01},
    {"lr": 0.01, "reduction": "mean"},
    {"data": "spiral", "depth": 0},
    {"lr": 10.0},
    {"bug": "overwritten-gradient"},
    {"bug": "tanh-at-the-input", "init_scale": 1e38},
)


@pytest.fixture(scope="module")
def runs():
    return [recorder.record(Lab(**SMALL, **settings), EPOCHS) for settings in RUNS]


@pytest.fixture(scope="module")
def file(runs, tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded") / "playground.html"
    path.write_text(recorder.html(runs), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(file):  # once the runs are recorded, which needs a thread without an event loop
    with open_browser() as browser:
        yield browser


@pytest.fixture
def page(file, browser):
    with open_page(file.as_uri(), browser) as page:
        page.on("console", lambda message: page.errors.append(message.text))
        page.goto(file.as_uri())
        page.locator(".diy-lab[data-frames]").wait_for()
        yield page
        assert page.errors == [] and page.elsewhere == []


@pytest.fixture
def lab(page):
    return OnScreen(page)


def test_a_recording_is_the_run_of_the_lab(runs):
    lab = Lab(**SMALL, lr=0.01)
    for moment in runs[1]["moments"]:
        while lab.epoch < moment["epoch"]:
            lab.run_epoch()
        assert moment["now"][:4] == list(lab.measure()[1:5])
    assert [moment["epoch"] for moment in runs[1]["moments"]] == list(EPOCHS)


def test_a_recorded_surface_keeps_the_sign_of_each_value(runs):
    surface = Lab(**SMALL, lr=0.01).surface(50).flatten()
    recorded = torch.tensor(runs[1]["moments"][0]["surface"]).cumsum(0)
    assert torch.equal(recorded.sign(), surface.sign()) and (recorded / 256 - surface).abs().max() < 1 / 256
    assert set(runs[6]["moments"][-1]["surface"]) == {0}  # no number


def test_a_recording_ends_where_the_run_broke_and_says_why(runs):
    diverged = runs[4]
    assert diverged["trouble"].startswith("Diverged") and diverged["moments"][-1]["epoch"] < EPOCHS[-1]


def test_the_page_in_docs_has_all_runs_and_stays_below_5_megabytes():
    wanted = [*recorder.wanted()]
    assert len(set(wanted)) == len(wanted) and wanted[0] == Settings()
    text = (ROOT / "docs" / "playground" / "index.html").read_text(encoding="utf-8")
    recording = re.search(r'id="recording">(.*?)</script>', text).group(1)
    runs = json.loads(gzip.decompress(base64.b64decode(recording)))["runs"]
    recorded = [Settings(**{field.name: run["settings"][field.name] for field in fields(Settings)}) for run in runs]
    assert recorded == wanted and len(text) < 5_000_000


def test_it_says_that_it_shows_recordings(page, lab):
    assert "plays recordings: nothing is trained" in page.locator("main").inner_text()
    lab.until("text === 'A recording: press Play, or move the slider.'")
    assert lab.root.locator(".line code").inner_text().startswith("Playground(")


def test_it_plays_to_the_end_and_again(lab):
    before = {part: lab.picture(part) for part in ("plane", "loss", "layers")}
    press = "lab.querySelector('[data-action=play]').click();"  # at once: it plays for less than a second
    assert lab.root.evaluate(f"(lab) => {{ {press} return lab.dataset.playing; }}") == "true"
    lab.until("data.playing === 'false' && text === 'The recording ends here, after 10 epochs.' && data.epoch === '10'")
    for part, old in before.items():
        assert lab.picture(part) != old
    assert lab.root.evaluate(f"(lab) => {{ {press} {press} return lab.dataset.epoch; }}") == "0"
    lab.until("data.playing === 'false' && text === 'Paused.'")


def test_the_numbers_on_screen_are_those_of_the_run(runs, lab):
    lab.setting("moment").press("End")
    lab.until("data.epoch === '10'")
    error = lab.root.locator("[data-number=test]").inner_text()
    assert error == f"{100 * runs[0]['moments'][-1]['now'][3]:.1f} %"


def test_every_control_works_by_keyboard(page, lab):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.dataset.action") == "play"
    page.keyboard.press("Enter")
    lab.until("text === 'Playing the recording.' || text.startsWith('The recording ends')")
    page.keyboard.press("Tab")
    page.keyboard.press("End")
    lab.until("data.playing === 'false' && data.epoch === '10'")
    page.keyboard.press("Home")
    lab.until("data.epoch === '0' && text === 'The recording after 0 epochs.'")
    lab.setting("lr").press("ArrowRight")
    lab.until("text === 'lr=0.01.'")
    assert lab.setting("lr").get_attribute("aria-valuetext") == "0.01"
    snapshot = lab.root.aria_snapshot()
    for name in ('combobox "data set', 'slider "hidden layers', 'combobox "loss', 'slider "learning rate', 'img "Loss'):
        assert name in snapshot, snapshot


def test_what_was_not_recorded_together_is_said(lab):
    lab.setting("reduction").select_option("mean")
    lab.until("text === \"reduction='mean'. It was recorded with lr=0.01.\"")
    lab.setting("data").select_option("spiral")
    lab.until("text.startsWith(\"data='spiral'. It was recorded with depth=0\")")


def test_a_run_that_diverged_says_why(lab):
    lab.setting("lr").press("End")
    lab.setting("moment").press("End")
    lab.until("data.kind === 'trouble' && text.startsWith('Diverged')")


def test_where_there_are_no_numbers_nothing_is_decided(lab):
    lab.setting("bug").select_option("tanh-at-the-input")
    lab.setting("moment").press("End")
    lab.until("data.kind === 'trouble' && text.includes('too large for float32')")
    lab.setting("discretize").check()
    corner = "(canvas) => String(canvas.getContext('2d').getImageData(3, 3, 1, 1).data)"
    lab.page.wait_for_function(f"({corner})(document.querySelector('[data-part=plane]')) === '255,255,255,255'")


def test_a_bug_has_its_twin_and_its_checks(runs, lab):
    lab.setting("bug").select_option("overwritten-gradient")
    lab.setting("moment").press("End")
    lab.until("data.epoch === '10'")
    assert "healthy twin" in lab.root.locator("[data-number=twin]").inner_text()
    story = lab.part("story")
    story.locator("summary").click()
    assert story.locator("code").all_inner_texts() == ["=", "+="] and "`" not in story.inner_text()
    legend = lab.root.get_by_text("Background: the prediction")
    assert "dashed: the healthy twin's." in legend.inner_text()
    lab.press("ask_checks")
    lab.root.locator("li[data-check]").first.wait_for()
    seen = [row.get_attribute("data-sees") == "true" for row in lab.root.locator("li[data-check]").all()]
    assert seen == [answer["sees"] for answer in runs[5]["answers"]]
    lab.setting("bug").select_option("none")
    lab.part("story").wait_for(state="hidden")
    assert "dashed" not in legend.inner_text()


@pytest.mark.parametrize("width, height", [(1280, 720), (620, 800), (390, 844)])
def test_it_fits_the_screen(page, lab, width, height):
    page.set_viewport_size({"width": width, "height": height})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    lab.root.evaluate("(lab) => lab.scrollIntoView({ block: 'start' })")
    for node in (lab.root.locator("[data-action=play]"), lab.part("plane"), lab.setting("bug")):
        box = node.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, box


def test_it_follows_the_dark_theme(page, lab):
    colors = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        light = "true" if scheme == "light" else "false"
        page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")
        colors.append(lab.root.evaluate("(lab) => getComputedStyle(lab).backgroundColor"))
    assert colors == ["rgb(255, 255, 255)", "rgb(26, 26, 26)"]


def test_in_the_book_its_frame_is_as_tall_and_as_dark_as_it_has_to_be(file, browser):
    text = (ROOT / "docs" / "book" / "playground.md").read_text(encoding="utf-8")
    around = file.with_name("book.html")
    around.write_text(text[text.index("<iframe") :].replace("../playground/index.html", file.name), encoding="utf-8")
    with open_page(around.as_uri().removesuffix("book.html"), browser) as page:
        page.goto(around.as_uri())
        lab = OnScreen(page.frame_locator("iframe"))
        lab.root.wait_for()
        background = "(lab) => getComputedStyle(lab).backgroundColor"
        for theme, color in ("dark", "rgb(26, 26, 26)"), ("light", "rgb(255, 255, 255)"):
            page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
            until(page, lambda color=color: lab.root.evaluate(background) == color)
        heights = "() => [document.documentElement.scrollHeight, innerHeight]"
        for width in (1100, 390):
            page.set_viewport_size({"width": width, "height": 700})
            page.locator("iframe").evaluate("(frame, width) => { frame.width = width - 20; }", width)
            until(page, lambda: len(set(lab.root.evaluate(heights))) == 1)
        before = lab.root.evaluate(heights)
        lab.setting("bug").select_option("overwritten-gradient")
        until(page, lambda: lab.root.evaluate(heights) > before and len(set(lab.root.evaluate(heights))) == 1)
        assert page.errors == [] and page.elsewhere == []


def test_nothing_but_numbers_and_words_is_in_the_page(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"https?://|\{\{", text)


def test_a_folder_that_cannot_be_is_refused_in_a_sentence(tmp_path, capsys):
    (tmp_path / "taken").touch()
    with pytest.raises(SystemExit):
        recorder.main(["--out", str(tmp_path / "taken")])
    assert "argument --out: cannot write to" in capsys.readouterr().err
