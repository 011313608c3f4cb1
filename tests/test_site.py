"""The site that `make docs` builds, in a real browser: nothing from outside, search, phone width, light and dark."""

import importlib.util
import re

import nbformat
import pytest
from conftest import REPOSITORY
from doc_samples import LINK

RUN = "executed"
OUTPUT, BAR = "a number that a run printed", "a progress bar"
WIDE_TABLE = f"<table class='dataframe'><tr>{'<td>a_long_column_name</td>' * 30}</tr></table>"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True}
PAGES = ("index", "docs/parts", "docs/change_one_thing", "docs/method", "reference/settings", "notebooks/01_data")
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def load_build():
    """Return docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_build", REPOSITORY / "docs/build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build(monkeypatch, tmp_path):
    """docs/build.py, to which a run with one executed notebook and a report seems to lie in the repository."""
    module, folder = load_build(), tmp_path / "outputs" / RUN
    (folder / "notebooks").mkdir(parents=True)
    notebook = nbformat.read(REPOSITORY / "notebooks/01_data.ipynb", 4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code")
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": BAR}
    cell.outputs = [
        nbformat.v4.new_output("display_data", data=widget),
        nbformat.v4.new_output("display_data", data={"text/html": WIDE_TABLE}),
        nbformat.v4.new_output("display_data", data={"text/plain": OUTPUT}),
        nbformat.v4.new_output("stream", name="stderr", text=BAR),
    ]
    nbformat.write(notebook, folder / "notebooks/01_data.ipynb")
    (folder / "index.html").write_text("<title>the report of the run</title>")
    monkeypatch.setattr(module, "_run_folder", lambda run: tmp_path / "outputs" / run)
    return module


def test_a_folder_that_holds_other_files_is_left_as_it_is(build, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(build.EthandError, match=r"mine: holds something that this command did not make"):
        build.build(mine)
    assert (mine / "thesis.txt").read_text() == "mine"


def test_an_unknown_run_is_refused(build, tmp_path):
    with pytest.raises(build.EthandError, match=r"nowhere.notebooks: no such folder; expected a run's notebooks"):
        build.build(tmp_path / "site", "nowhere")
    assert not (tmp_path / "site").exists()


def test_each_notebook_is_shown_as_the_run_executed_it_for_the_full_method_where_it_did(build, tmp_path):
    folder = tmp_path / "outputs" / RUN / "notebooks"
    for name in ("07_train_g2_baseline_seed0", "07_train_g2_unetpp_full_seed0", "07_train_g2_unetpp_full_seed1"):
        (folder / f"{name}.ipynb").touch()
    (folder / "11_cyclegan_loose_seed0.ipynb").touch()
    notebooks = build._notebooks(RUN)
    assert set(notebooks) == {path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert notebooks["01_data"] == folder / "01_data.ipynb"
    assert notebooks["07_train_g2"].stem == "07_train_g2_unetpp_full_seed0"
    assert notebooks["11_cyclegan"].stem == "11_cyclegan_loose_seed0"
    assert notebooks["02_explore"] == REPOSITORY / "notebooks/02_explore.ipynb"
    assert build._notebooks(None)["07_train_g2"] == REPOSITORY / "notebooks/07_train_g2.ipynb"


def test_pages_find_beside_them_what_they_link_to(build, tmp_path):
    source = tmp_path / "source"
    build._assemble(source, build._notebooks(None))
    pages = [source / "index.md", *(source / "docs").glob("*.md")]
    assert {page.name for page in pages} == {"index.md", *(path.name for path in (REPOSITORY / "docs").glob("*.md"))}
    for page in pages:
        for link in LINK.findall(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)):
            assert "://" in link or (page.parent / link.partition("#")[0]).exists(), f"{page.name}: {link}"
    assert not (source / "README.md").exists()


@pytest.mark.parametrize("room", load_build().ROOMS)
def test_the_page_of_a_room_has_every_name_that_it_offers(room):
    page = load_build().room_page(room)
    for name in importlib.import_module(f"ethand_utils.{room}").__all__:
        assert f":: ethand_utils.{room}.{name}\n" in page


@pytest.mark.slow
def test_the_site_is_whole_and_asks_nothing_of_the_network(build, tmp_path, chromium):
    for module in ("furo", "myst_nb"):
        pytest.importorskip(module, reason="the extra `docs` is not installed; `make docs` installs it")
    site = tmp_path / "site"
    site.mkdir()
    assert build.build(site, RUN, jobs="1") == 0
    check_pages(site)
    check_executed_notebook(site)
    check_in_browser(site, chromium)


def check_pages(site):
    """No page names anything of another host but as a link, and every page of docs/ is there."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]+)"', text)
        assert not [address for address in loaded if re.match(r"(https?:)?//", address)], page
    for path in (REPOSITORY / "docs").glob("*.md"):
        assert (site / f"docs/{path.stem}.html").exists()


def check_executed_notebook(site):
    """A run's outputs are shown, without progress bars and widgets; its report lies beside."""
    text = (site / "notebooks/01_data.html").read_text(encoding="utf-8")
    assert OUTPUT in text
    assert BAR not in text
    assert "widget-view" not in text
    assert "the report of the run" in (site / "report.html").read_text()


def check_in_browser(site, chromium):
    """Pages load from the file system alone, fit a phone, are dark where the reader is, and can be searched."""
    backgrounds = set()
    for options in ({"color_scheme": "light"}, {"color_scheme": "dark"}, PHONE):
        page, requests, errors = chromium.new_page(**options), [], []
        page.on("request", lambda request, requests=requests: requests.append(request.url))
        page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
        for name in PAGES:
            page.goto(f"file://{site}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (name, options)
        backgrounds.add(page.evaluate(BACKGROUND))
        assert errors == []
        assert not [url for url in requests if not url.startswith(("file:", "data:"))]
    assert len(backgrounds) == 2
    page.close()
    page = chromium.new_page()
    page.goto(f"file://{site}/index.html")
    page.fill("input[name=q]", "straight_through")
    page.keyboard.press("Enter")
    result = page.locator("#search-results li a", has_text="The method")
    result.first.wait_for(timeout=20_000)  # results come one by one
