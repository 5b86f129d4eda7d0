"""The book, built as its command builds it: every link leads somewhere, and nothing is asked of other places."""

import functools
import io
import re
import subprocess
import sys
import threading
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from docs import ledger
from tests.playground.test_playground_browser import open_page

pytest.importorskip("sphinx", reason="pip install -r docs/requirements.txt")

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(path.stem for path in ROOT.glob("notebooks/[0-9]*.ipynb"))
FORMULAS = ledger.collect()


class Page(HTMLParser):
    """What a page has: the attributes of its tags, its anchors and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.tags, self.anchors, self.words = path, [], set(), []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.anchors |= {attrs[name] for name in ("id", "name") if attrs.get(name)}

    def handle_data(self, data):
        self.words.append(data)

    def values(self, *names: str) -> list[tuple[str, str]]:
        """Return (tag, address) for each of these attributes."""
        return [(tag, attrs[name]) for tag, attrs in self.tags for name in names if attrs.get(name)]


@pytest.fixture(scope="session")
def book(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("book")
    command = [sys.executable, "-m", "docs.book", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert str(folder / "index.html") in done.stdout
    return folder


@pytest.fixture(scope="session")
def pages(book) -> dict[str, Page]:
    pages = {path.relative_to(book).as_posix(): Page(path) for path in sorted(book.rglob("*.html"))}
    pages.pop("docs/playground/index.html")  # has a test of its own
    return {name: page for name, page in pages.items() if not name.startswith("_static/")}


def elsewhere(address: str) -> bool:
    return bool(urlsplit(address).scheme or address.startswith("//"))


def leads(page: Page, address: str) -> tuple[Path, str]:
    """Return the file and the anchor that an address on a page stands for."""
    parts = urlsplit(address)
    return (page.path.parent / unquote(parts.path)).resolve() if parts.path else page.path, unquote(parts.fragment)


def links(page: Page, text: str) -> list[str]:
    """Return the addresses of the links on a page that end so."""
    return [address for tag, address in page.values("href") if tag == "a" and address.endswith(text)]


def test_everything_is_there(pages):
    wanted = {f"notebooks/{name}.html" for name in NOTEBOOKS}
    wanted |= {f"docs/{name}.html" for name in ("ledger", "diy", "gradcheck", "teaching", "scale")}
    assert wanted | {"index.html", "docs/book/playground.html", "search.html", "source/diy.html"} <= set(pages)
    for name in wanted:
        assert links(pages["index.html"], name), f"the contents do not name {name}"


def test_what_is_folded_in_jupyterlab_is_folded_here_and_no_project_is_fetched(pages):
    for name in NOTEBOOKS:
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        folded = [cell for cell in cells if cell.metadata.get("jupyter", {}).get("source_hidden")]
        page = pages[f"notebooks/{name}.html"]
        assert len([tag for tag, attrs in page.tags if tag == "details" and "input" in attrs.get("class", "")]) == (
            len(folded) - 1
        )
        assert "diy-project" not in "".join(page.words)


def test_every_link_and_anchor_leads_somewhere(pages):
    known = {page.path: page.anchors for page in pages.values()}
    wrong = []
    for name, page in pages.items():
        for _, address in page.values("href", "src"):
            if not elsewhere(address):
                path, anchor = leads(page, address)
                if not path.exists() or (anchor and anchor not in known.get(path, ())):
                    wrong.append(f"{name}: {address}")
    assert wrong == []


def test_nothing_is_loaded_from_elsewhere(book, pages):
    for name, page in pages.items():
        loaded = [address for _, address in page.values("src", "srcset", "poster", "data")]
        loaded += [address for tag, address in page.values("href") if tag == "link"]
        assert [address for address in loaded if elsewhere(address) and not address.startswith("data:")] == [], name
    for path in book.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_picture_has_its_alternative_text(pages):
    for name, page in pages.items():
        assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img"), name
    for name in NOTEBOOKS:
        cells = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells
        pictures = str([cell.get("outputs") for cell in cells]).count("<img ")
        shown = [tag for tag, address in pages[f"notebooks/{name}.html"].values("src") if address.startswith("data:")]
        assert shown == ["img"] * pictures


@pytest.mark.parametrize("number", FORMULAS)
def test_a_number_leads_to_derivation_code_and_tests(pages, number):
    formula, row = FORMULAS[number], pages["docs/ledger.html"]
    assert number in row.anchors
    for owner in formula.coded:
        assert f"diy.{owner}" in pages["docs/diy.html"].anchors and links(row, f"diy.html#diy.{owner}")
    for name in formula.derived:
        derivation = pages[f"notebooks/{Path(name).stem}.html"]
        assert number in derivation.anchors and links(row, f"{derivation.path.name}#{number}")
        assert links(derivation, f"ledger.html#{number}") and links(derivation, f"diy.html#diy.{formula.coded[0]}")
    for file, test in formula.tested:
        lines = (ROOT / "tests" / file).read_text(encoding="utf-8").splitlines()
        line = next(i for i, line in enumerate(lines, 1) if line.startswith(f"def {test}("))
        place = f"source/tests/{file.removesuffix('.py')}.html#line-{line}"
        for page in (row, *(pages[f"notebooks/{Path(name).stem}.html"] for name in formula.derived)):
            assert links(page, place)


def test_the_book_stays_small(book):
    assert sum(path.stat().st_size for path in book.rglob("*") if path.is_file()) < 55_000_000


# In a browser


@pytest.fixture(scope="module")
def reader(book):
    """A page that reads the book from its files."""
    with open_page(book.as_uri()) as page:
        page.on("console", lambda message: message.type == "error" and page.errors.append(message.text))
        yield page


@pytest.fixture
def page(reader):
    reader.errors.clear()
    reader.elsewhere.clear()
    yield reader
    assert reader.errors == [] and reader.elsewhere == []


@pytest.mark.parametrize(
    "name", ["index", "docs/gradcheck", "docs/teaching", "notebooks/07_convolutions", "notebooks/09_playground"]
)
def test_a_page_of_each_kind_asks_for_nothing_from_elsewhere(book, page, name):
    page.goto(f"{book.as_uri()}/{name}.html", wait_until="load")  # other tests open others
    assert page.locator("main").is_visible()


def test_a_formula_is_drawn_and_its_number_leads_on(book, page):
    page.goto(f"{book.as_uri()}/notebooks/02_backward_pass.html#F3")
    page.wait_for_function("document.querySelector('#F3 + .math mjx-container svg, #F3 + div mjx-container svg')")
    page.locator("#F3 ~ .formula a", has_text="F3").first.click()
    page.wait_for_url("**/docs/ledger.html#F3")
    row = page.locator("tr:has(#F3)")
    row.locator("a", has_text="notebook 2").click()
    page.wait_for_url("**/notebooks/02_backward_pass.html#F3")
    page.go_back()
    row.locator("a", has_text="Linear.backward").click()
    page.wait_for_url("**/docs/diy.html#diy.Linear.backward")
    assert "∂ℓ/∂W = Gᵀ X" in page.locator("dl:has(> dt[id='diy.Linear.backward'])").inner_text()
    page.locator("dt[id='diy.Linear.backward'] a", has_text="source").click()
    page.wait_for_url("**/source/diy.html#line-*")
    assert page.locator("article h1").inner_text() == "diy.py"


def test_hints_unfold_and_films_run(book, page):
    page.goto(f"{book.as_uri()}/notebooks/04_circle.html")
    hint = page.locator("details:has(> summary:text-is('Hint'))").first
    assert not hint.locator("p").first.is_visible()
    hint.locator("summary").click()
    assert hint.locator("p").first.is_visible()
    film = page.locator("div[role=group]").first
    slider = film.locator("xpath=following-sibling::div[1]").locator("input[type=range]")
    slider.evaluate("(slider) => { slider.value = 3; slider.dispatchEvent(new Event('input')); }")
    page.wait_for_function("(film) => film.scrollLeft > 2 * film.clientWidth", arg=film.element_handle())


def test_the_playground_is_in_it(book, page):
    page.goto(f"{book.as_uri()}/docs/book/playground.html")
    page.frame_locator("iframe").locator(".diy-lab[data-frames]").wait_for()


def test_it_is_seen_in_light_and_dark(book, page):
    page.goto(f"{book.as_uri()}/notebooks/01_forward_pass.html")
    brightness = []
    for mode in ("light", "dark"):
        page.locator(".theme-switch-button").click()
        page.locator(f".theme-change-button[data-mode={mode}]").click()
        page.wait_for_function(f"document.documentElement.dataset.theme === '{mode}'")
        pixels = plt.imread(io.BytesIO(page.screenshot()))[..., :3]
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50, "letters and their edges"
        brightness.append(pixels.mean())
    assert brightness[0] > 0.8 and brightness[1] < 0.3


def test_search_finds_pages(book, page):
    # From files a browser lets no script read other pages: titles are found, but the lines below them are missing.
    handler = functools.partial(SimpleHTTPRequestHandler, directory=book)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    try:
        page.goto(f"{address}search.html?q=momentum")
        page.locator("#search-results a", has_text="The backward pass").first.wait_for()
        page.locator("#search-results .context", has_text="momentum").first.wait_for()
        assert [asked for asked in page.elsewhere if not asked.startswith(address)] == []
        page.elsewhere.clear()
    finally:
        server.shutdown()
        server.server_close()
