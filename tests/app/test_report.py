"""The report of a run: one file without a network, complete for a finished run, and readable whatever is missing."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from finishedrun import NAMES, add_row, make_run

from ethand_utils.analysis.comparison import mean_difference
from ethand_utils.analysis.statistics import bootstrap_interval
from ethand_utils.analysis.tables import by_hand, over_seeds, scores_by_row
from ethand_utils.app import report, sections
from ethand_utils.app.report import write_index
from ethand_utils.app.text import duration
from ethand_utils.data.datasets import describe
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.experiments.config import load_profile
from ethand_utils.experiments.methods import FULL_METHOD, table_methods
from ethand_utils.experiments.run import Run, save_result
from ethand_utils.experiments.workflow import stages

ROWS = table_methods()
TITLES = [section.title for section in sections.SECTIONS]


class Page(HTMLParser):
    """A parsed page: its tags with attributes, its text, and the text of each warning."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.missing, self.open = [], "", [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if dict(attrs).get("class") == "missing":
            self.missing.append("")
            self.open = tag

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        self.text += data
        if self.open:
            self.missing[-1] += data

    def all(self, tag, attribute):
        return [attrs[attribute] for name, attrs in self.tags if name == tag and attribute in attrs]


@pytest.fixture(scope="module")
def made(dataset, tmp_path_factory):
    """A finished run. Read only."""
    return make_run(tmp_path_factory.mktemp("outputs") / "x", dataset)


@pytest.fixture(scope="module")
def text(made):
    """Its page."""
    return write_index(made).read_text()


@pytest.fixture
def run(made, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(made.folder, tmp_path / "y")
    return Run(tmp_path / "y", made.profile)


def page_of(run, monkeypatch, *headings):
    """Return the page with some of its sections only, which takes less time."""
    monkeypatch.setattr(report, "SECTIONS", [section for section in sections.SECTIONS if section.title in headings])
    return Page(write_index(run).read_text())


def facts_of(text):
    """Return the table of facts of a page's summary."""
    table = re.search(r'<table class="words">.*?</table>', text, re.DOTALL)[0]
    return dict(re.findall(r"<td>(.*?)</td><td>(.*?)</td>", table))


def test_a_finished_run_has_every_section_and_lacks_nothing(text):
    page = Page(text)
    assert page.missing == []
    for title in TITLES:
        assert f"<h2>{title}</h2>" in text
    for method in ROWS:
        assert method.title in page.text
        assert method.reported is None or f"{method.reported:.4f}" in page.text


def test_the_section_on_cyclegan_says_what_there_is_and_how_to_have_it(text, run, monkeypatch):
    words = Page(text).text
    assert "CycleGAN as in the report" in words
    assert "which hand is in front, right hand in front: unknown" in words
    without = Run(run.folder, run.profile.model_copy(update={"cyclegan": []}))
    assert "cyclegan=[loose]" in page_of(without, monkeypatch, "CycleGAN").text


def test_the_page_needs_nothing_from_outside(text):
    page = Page(text)
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", text)  # four letters that an image's bytes may well spell
    assert not re.search(r"<script|@import|url\(|<link|srcset", text)
    sources, links, places = page.all("img", "src"), page.all("a", "href"), {attrs.get("id") for _, attrs in page.tags}
    assert len(sources) >= 12
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert {link[1:] for link in links if link.startswith("#")} <= places
    files = {link for link in links if not link.startswith("#")}
    assert files == {f"html/{stage.name}.html" for stage in stages(load_profile("ci"))}


def test_every_image_says_what_it_shows_and_how_large_it_is(text):
    images = [attrs for tag, attrs in Page(text).tags if tag == "img"]
    assert all(len(image["alt"]) > 10 and int(image["width"]) > 100 and int(image["height"]) > 20 for image in images)


def test_the_page_has_dark_print_and_narrow_forms(text):
    for form in ("prefers-color-scheme: dark", "@media print", "break-inside: avoid", "width=device-width"):
        assert form in text


def test_the_summary_shows_what_was_run_and_the_scores(made, text):
    words = Page(text).text
    scores = over_seeds(scores_by_row(made))
    best, first = (bootstrap_interval(by_hand(scores[row])) for row in (NAMES[-1], NAMES[0]))
    assert f"Best row: the full method, course mIoU {best.mean:.3f} (95 % interval {best.low:.3f}" in words
    assert f"Baseline: {first.mean:.3f}, {best.mean - first.mean:.3f} lower." in words
    assert facts_of(text) == {
        "data": "hands rendered for this run, 32×32 px",
        "pairs to train on": "16",
        "images without masks": "16",
        "rows of Table 1 trained": "7 of 7",
        "trainings of each row": "1, so how far two trainings of one row differ by chance is unknown",
        "scored on": "store test: 8 samples of 4 people, none trained on",
        "steps of Table 1": (
            "0 of 8 steps are settled for these nets (p &lt; 0.05, Holm-corrected), none for the method, as each row "
            "was trained once; seeds=3 trains more."
        ),
    }


def test_the_summary_compares_the_full_method_with_a_better_row(run, dataset, monkeypatch):
    for folder in (f"predictions/{FULL_METHOD}_seed0", f"g2/{FULL_METHOD}"):
        shutil.rmtree(run.folder / folder)
    add_row(run.folder, FULL_METHOD, dataset["test"], 0.6)
    monkeypatch.setattr(report, "SECTIONS", [section for section in sections.SECTIONS if section.title == "Summary"])
    facts = facts_of(write_index(run).read_text())
    scores = over_seeds(scores_by_row(run))
    difference = mean_difference(scores[NAMES[-2]], scores[FULL_METHOD])
    assert facts["full method minus best row"].startswith(
        f"{difference.mean:+.3f} (95 % interval {difference.low:+.3f}"
    )
    assert difference.high < 0


def test_several_seeds_are_counted(run, dataset, monkeypatch):
    add_row(run.folder, NAMES[0], dataset["test"], 0.6, seed=1)
    assert "trainings of each row1 to 2" in page_of(run, monkeypatch, "Summary").text


def test_best_median_and_worst_sample_are_those_of_the_scores(made, text):
    table = over_seeds(scores_by_row(made))[NAMES[-1]]["course_miou"].dropna().sort_values()
    for kind, rank in (("Best", -1), ("Median", len(table) // 2), ("Worst", 0)):
        assert f"{kind} sample of the full method: {table.index[rank]} (" in text


def test_the_same_files_give_the_same_page(run, monkeypatch):
    monkeypatch.setattr(report, "SECTIONS", sections.SECTIONS[:2])
    assert write_index(run).read_bytes() == write_index(run).read_bytes()


def test_every_setting_is_there_with_its_meaning(made, text):
    words = Page(text).text
    for name, field in type(made.profile).model_fields.items():
        assert f"<td>{name}</td>" in text
        assert field.description in words


LACKS = {
    "data_summary.csv": ("Data", "The data set: left out, as data_summary.csv is not there."),
    "g1/history.csv": ("Learning", "Losses of G1: left out, as g1/history.csv is not there."),
    "g1/result.json": ("Cost", "Times and sizes: left out, as g1/result.json is not there."),
    "pseudo/result.json": ("Confidence", "Pseudo-labels: left out, as pseudo/result.json is not there."),
    "figures/pseudo_labels.png": ("Confidence", "Pseudo-labels: left out, as figures/pseudo_labels.png is not there."),
    "data/test": ("Samples", "Best, median and worst sample: left out, as data/test: no store here"),
    "data/test/masks.npy": ("Samples", "masks.npy: missing from this store"),
    "predictions": ("Parts", "Confusion of parts: left out, as predictions/unetpp_full_seed0 is not there"),
    "g2": ("Summary", "The summary: left out, as g2 is not there."),
}


@pytest.mark.parametrize("name", LACKS)
def test_what_is_missing_is_left_out_with_a_line_that_names_it(run, monkeypatch, name):
    heading, says = LACKS[name]
    path = run.folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = page_of(run, monkeypatch, heading)
    assert any(says in line for line in page.missing)
    assert str(run.folder) not in page.text


@pytest.mark.parametrize(
    ("name", "heading"),
    [
        ("data_summary.csv", "Data"),
        ("g1/history.csv", "Learning"),
        ("g1/result.json", "Cost"),
        ("g2/unetpp_ce/seed0/result.json", "Table 1"),
        ("predictions/unetpp_full_seed0/metrics.parquet", "Summary"),
        ("predictions/unetpp_full_seed0/meta.json", "Samples"),
        ("figures/explore.png", "Notebooks"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"\x00\xff no such format {"])
def test_what_is_damaged_is_left_out_with_a_line_too(run, monkeypatch, name, heading, content):
    (run.folder / name).write_bytes(content)
    assert page_of(run, monkeypatch, heading).missing


def test_a_result_of_an_older_kind_is_left_out_naming_what_it_lacks(run, monkeypatch):
    file = run.folder / "pseudo/result.json"
    file.write_text(json.dumps({"images": 3}))
    assert page_of(run, monkeypatch, "Confidence").missing == [
        "Pseudo-labels: left out, as its files lack 'kept_share'."
    ]


def test_a_run_that_has_only_begun_has_a_page(tmp_path):
    page = Page(write_index(Run(tmp_path / "new", load_profile("ci"))).read_text())
    assert len(page.missing) > 8
    assert "01_data (has not run)" in page.text
    assert page.all("a", "href") == [f"#{title.lower().replace(' ', '-')}" for title in TITLES]


def test_rows_that_are_there_are_shown_and_counted(run, monkeypatch):
    for row in NAMES[3:]:
        shutil.rmtree(run.folder / "g2" / row)
        shutil.rmtree(run.folder / f"predictions/{row}_seed0")
    page = page_of(run, monkeypatch, "Summary", "Table 1", "Parts")
    assert page.missing == []
    assert "rows of Table 1 trained3 of 7" in page.text
    assert f"“{ROWS[2].title}”" in page.text


def test_a_row_without_predictions_has_a_score_without_an_interval(run, monkeypatch):
    shutil.rmtree(run.folder / "predictions/unetpp_ce_seed0")
    page = page_of(run, monkeypatch, "Summary", "Table 1")
    assert page.missing == []
    score = json.loads((run.folder / "g2/unetpp_ce/seed0/result.json").read_text())["course_miou"]
    assert f"{ROWS[1].title}0.5374{score:.4f}–" in page.text


def test_a_run_without_any_predictions_still_has_its_scores(run, monkeypatch):
    shutil.rmtree(run.folder / "predictions")
    page = page_of(run, monkeypatch, "Summary", "Table 1", "Learning")
    assert page.missing == []
    assert "Best row: the full method" in page.text


def test_masks_of_other_samples_are_not_shown(run, dataset, monkeypatch):
    shutil.rmtree(run.folder / "data/test")
    shutil.copytree(dataset["val"].path, run.folder / "data/test")
    page = page_of(run, monkeypatch, "Samples")
    assert "the masks belong to other samples than those of test" in page.missing[0]
    assert page.all("img", "src") == []


def test_a_source_that_knows_little_is_scored_on_val_without_occlusion(dataset, tmp_path, make_store, monkeypatch):
    val = dataset["val"]
    plain = make_store("plain", images=np.asarray(val.images), masks=np.asarray(val.masks))
    rows = [{"id": name, "hand_type": "right", "subject": "one"} for name in val.index["id"]]

    def sample(i):
        return {"images": plain.images[i], "masks": plain.masks[i], "row": rows[i]}

    plan = StorePlan(sample, len(val), val.size, ("images", "masks"), {"source": "course"})
    store = build_store(tmp_path / "given/val", plan)
    folder = tmp_path / "z"
    add_row(folder, NAMES[0], store, 0.3, "val")
    nothing = {"correlation": np.nan, "precision": np.nan, "miou_all": np.nan, "miou_kept": np.nan}
    save_result(folder / "pseudo", images=16, kept_share=0.5, **nothing, miou_dropped=np.nan)
    skipped = {"skipped": {"image: <black>": {"count": 3, "names": ["a.jpg"]}}}
    (tmp_path / "given/report.json").write_text(json.dumps(skipped))
    summary_of = pd.DataFrame([{"store": "val", **describe(store)}])
    summary_of.to_csv(folder / "data_summary.csv", index=False)
    profile = load_profile("ci", {"data": str(tmp_path / "given")})
    page = page_of(Run(folder, profile), monkeypatch, "Summary", "Samples", "Occlusion", "Confidence", "Data")
    assert page.missing == []
    assert "dataexisting stores, 32×32 px" in page.text
    assert "rows of Table 1 trained1 of 7" in page.text
    assert "trainings of each row1, so how far two trainings of one row differ by chance is unknown" in page.text
    assert "their scores were watched during training, as test has no masks" in page.text
    assert "what is occluded is unknown" in page.text
    assert "There is no truth to judge the pseudo-labels by" in page.text
    assert "skippedimage: <black>3a.jpg" in page.text
    assert "people" not in page.text.split("Samples")[0]


def test_names_from_files_are_text_and_never_markup(dataset, tmp_path, monkeypatch):
    run = make_run(tmp_path / "<b>&amp;'x\"", dataset)
    evil = '"><script>alert(1)</script>&'
    for place in (run.folder / "data/test", run.folder / "predictions/unetpp_full_seed0"):
        index = pd.read_parquet(place / "index.parquet").assign(id=evil)
        index.to_parquet(place / "index.parquet")
    table = pd.read_csv(run.folder / "data_summary.csv").assign(source=evil)
    table.to_csv(run.folder / "data_summary.csv")
    page = page_of(run, monkeypatch, "Samples", "Data")
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "b"}
    assert f"Best sample of the full method: {evil} (" in page.text
    assert page.text.count("<b>&amp;'x\"") == 3
    assert evil in page.text.split("Data")[-1]


def test_durations_have_the_unit_that_fits():
    texts = [duration(seconds) for seconds in (0, 8.23, 59.97, 75, 3599, 3600, 11100)]
    assert texts == ["0.0 s", "8.2 s", "1 min", "1 min", "1 h 00 min", "1 h 00 min", "3 h 05 min"]
