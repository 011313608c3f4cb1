"""The error browser's Python side: kinds of errors, sparse confusion, predictions and their data, state, files."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ethand_utils.analysis.confusion import (
    CORRECT,
    ERROR_COLOURS,
    ERRORS,
    INVENTED,
    MATRICES,
    MISSED,
    WRONG_HAND,
    WRONG_PART,
    disagreement,
    error_classes,
    error_shares,
    sparse_counts,
    total_counts,
    worst_parts,
)
from ethand_utils.analysis.predictions import Predictions, PredictionsError
from ethand_utils.app.browser import WORST_SIZE, ErrorBrowser, page_script
from ethand_utils.data.store import FORMAT, Store
from ethand_utils.data.store_builder import StorePlan, build_store
from ethand_utils.exceptions import EthandError
from ethand_utils.labels import COLOURS, N_CLASSES, PARTS, SAFE_COLOURS
from ethand_utils.training.metrics import confusion, part_iou


@pytest.fixture
def masks():
    """Random predictions and truth [6, 2, 12, 12], alike in half of the pixels; the last has no left hand."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, N_CLASSES, (6, 2, 12, 12)).astype(np.uint8) * rng.integers(0, 2, (6, 2, 12, 12), np.uint8)
    truth[5, 0] = 0
    other = rng.integers(0, N_CLASSES, truth.shape).astype(np.uint8)
    return np.where(rng.random(truth.shape) < 0.5, truth, other), truth


@pytest.fixture
def folder(dataset, predict_wrongly, tmp_path):
    """Faulty predictions of the test store."""
    predict_wrongly(dataset["test"], tmp_path / "net")
    return tmp_path / "net"


@pytest.fixture
def sent(monkeypatch):
    """Messages that browsers send to their page: (content, buffers)."""
    messages = []
    monkeypatch.setattr(ErrorBrowser, "send", lambda _, content, buffers=None: messages.append((content, buffers)))
    return messages


# ---- kinds of errors and confusion -----------------------------------------------------------------------------------


def test_every_pixel_has_its_kind_of_error():
    #                 right, missed, wrong part, invented, wrong hand, background
    truth = np.array([[[3, 3, 3, 0, 0, 0]], [[0, 0, 0, 0, 7, 0]]], np.uint8)
    predicted = np.array([[[3, 0, 4, 5, 5, 0]], [[0, 0, 0, 0, 7, 0]]], np.uint8)
    kinds = error_classes(predicted, truth)
    assert kinds[0, 0].tolist() == [CORRECT, MISSED, WRONG_PART, INVENTED, WRONG_HAND, 0]
    assert kinds[1, 0].tolist() == [0, 0, 0, 0, CORRECT, 0]


def test_a_perfect_prediction_has_no_error(masks):
    assert set(np.unique(error_classes(masks[1], masks[1]))) <= {0, CORRECT}
    assert sum(error_shares(sparse_counts(masks[1], masks[1])).values()) == 0


def test_sparse_counts_are_the_confusion(masks):
    counts, dense = sparse_counts(*masks), confusion(*masks)
    assert counts.shape[0] == 6
    for i in range(6):
        assert (total_counts(counts, [i])[:2] == dense[i]).all()
    chosen = np.array([True, False, True, False, False, True])
    assert (total_counts(counts, chosen)[:2] == dense[chosen].sum(0)).all()


def test_the_other_hands_pixels_are_counted_by_what_they_are_called(masks):
    predicted, truth = masks
    total = total_counts(sparse_counts(predicted, truth))
    for hand, other in ((0, 1), (1, 0)):
        wrong = error_classes(predicted, truth)[:, other] == WRONG_HAND
        assert total[2 + hand].sum() == wrong.sum()
        assert total[2 + hand, 4, 9] == (wrong & (truth[:, hand] == 4) & (predicted[:, other] == 9)).sum()


def test_shares_of_errors_are_the_pixels_of_the_error_map(masks):
    kinds, parts = error_classes(*masks), (masks[1] > 0).sum()
    for name, share in error_shares(sparse_counts(*masks)).items():
        assert share == pytest.approx((kinds == ERRORS.index(name)).sum() / parts)


def same_bytes(one, two):
    """Whether two sparse arrays are the same, to the types of their numbers."""
    return all(
        getattr(one, name).dtype == getattr(two, name).dtype
        and getattr(one, name).tobytes() == getattr(two, name).tobytes()
        for name in ("indptr", "indices", "data")
    )


@pytest.mark.parametrize("seed", range(60))
def test_sparse_counts_are_a_loop_over_pixels_whoever_counted_the_hands_own(seed):
    rng = np.random.default_rng(seed)
    shape, most = (rng.integers(0, 5), 2, *rng.integers(1, 9, 2)), rng.integers(1, N_CLASSES + 1)
    truth, predicted = (rng.integers(most, size=shape) * (rng.random(shape) < rng.random()) for _ in range(2))
    expected = np.zeros((shape[0], len(MATRICES), N_CLASSES, N_CLASSES), int)
    for i, hand, row, column in np.ndindex(shape):
        true, other = truth[i, hand, row, column], predicted[i, 1 - hand, row, column]
        expected[i, hand, true, predicted[i, hand, row, column]] += 1
        if true and other and not truth[i, 1 - hand, row, column]:
            expected[i, 2 + hand, true, other] += 1
    masks = predicted.astype(np.uint8), truth.astype(np.uint8)
    counts = sparse_counts(*masks)
    assert (counts.toarray() == expected.reshape(counts.shape)).all()
    assert same_bytes(counts, sparse_counts(*masks, own=confusion(*masks)))


def test_counts_do_not_depend_on_the_chunks_they_are_made_in(masks, monkeypatch):
    whole = sparse_counts(*masks)
    monkeypatch.setattr("ethand_utils.analysis.confusion.CHUNK", 4)
    assert same_bytes(sparse_counts(*masks), whole)
    assert same_bytes(sparse_counts(*masks, own=confusion(*masks)), whole)
    assert sparse_counts(masks[0][:0], masks[1][:0]).shape == (0, whole.shape[1])


def test_disagreement_is_none_with_itself_and_all_with_the_opposite():
    one = np.zeros((2, 2, 4, 4), np.uint8)
    one[:, 0, :2] = 3
    assert disagreement(one, one).tolist() == [0, 0]
    assert disagreement(one, one[:, ::-1]).tolist() == [1, 1]
    assert disagreement(one * 0, one * 0).tolist() == [0, 0]


def test_worst_parts_name_the_situation_with_the_errors():
    truth = np.zeros((8, 2, 6, 17), np.uint8)
    truth[:, 0] = np.arange(N_CLASSES)
    predicted = truth.copy()
    bad = np.arange(8) >= 6
    predicted[bad] = np.where(truth[bad] == 5, 6, truth[bad])
    table = worst_parts(sparse_counts(predicted, truth), {"bad": bad, "good": ~bad})
    assert table.iloc[0][["situation", "part", "iou", "mostly"]].tolist() == ["bad", PARTS[5], 0, PARTS[6]]
    assert table.sort_values("below").iloc[-1][["situation", "part"]].tolist() == ["bad", PARTS[5]]
    assert set(table["part"]) == set(PARTS[1:])


def test_palettes_tell_every_part_and_every_error_apart():
    for palette in (COLOURS, SAFE_COLOURS, ERROR_COLOURS):
        assert len(np.unique(palette, axis=0)) == len(palette)
        assert not palette[0].any()


# ---- predictions and their data --------------------------------------------------------------------------------------


def test_evaluate_notes_where_the_data_is_and_counts_the_confusion(folder, dataset):
    predictions = Predictions(folder)
    assert predictions.data.path.samefile(dataset["test"].path)
    assert (
        predictions.cached_counts().todense() == sparse_counts(predictions.store.masks, predictions.truth).todense()
    ).all()
    assert predictions.table["id"].tolist() == dataset["test"].index["id"].tolist()
    assert {"course_miou", "confidence", "hand_type", "occluded"} <= set(predictions.table)


def test_a_run_that_is_moved_is_found_with_its_data(dataset, predict_wrongly, tmp_path):
    shutil.copytree(dataset["test"].path, tmp_path / "a/data/test")
    predict_wrongly(Store(tmp_path / "a/data/test"), tmp_path / "a/predictions/net")
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(Predictions(tmp_path / "b/predictions/net")) == len(dataset["test"])
    shutil.rmtree(tmp_path / "b/data")
    with pytest.raises(PredictionsError, match="data="):
        Predictions(tmp_path / "b/predictions/net")


def test_predictions_of_other_data_are_refused_with_both_names(folder, dataset):
    with pytest.raises(PredictionsError, match=r"net: predictions of other data: 0 of its 8 ids .*val"):
        ErrorBrowser(folder, dataset["val"])


def test_predictions_without_a_data_path_ask_for_it(dataset, make_store):
    store = make_store("lonely", masks=np.asarray(dataset["test"].masks))
    with pytest.raises(PredictionsError, match="data="):
        Predictions(store)


def test_predictions_of_another_size_are_refused(dataset, tmp_path):
    test = dataset["test"]

    def sample(i):
        return {"masks": np.zeros((2, 16, 16), np.uint8), "row": {"id": test.index["id"][i]}}

    small = build_store(tmp_path / "small", StorePlan(sample, len(test), 16, ("masks",), {}))
    with pytest.raises(PredictionsError, match="16 px"):
        Predictions(small, test)


def old_counts(file):
    np.savez(file, offsets=np.arange(9), cells=np.arange(8, dtype=np.uint16), pixels=np.arange(8, dtype=np.uint32))


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b"PK nonsense"), old_counts])
def test_a_damaged_or_older_cache_is_counted_anew(folder, spoil):
    whole = total_counts(Predictions(folder).counts())
    spoil(folder / "confusion.npz")
    assert Predictions(folder).cached_counts() is None
    assert (total_counts(Predictions(folder).counts()) == whole).all()
    assert Predictions(folder).cached_counts() is not None


def test_damaged_scores_and_tags_are_named(folder):
    Predictions(folder).tags_file.write_text("[1")
    with pytest.raises(PredictionsError, match=r"net.tags.json"):
        Predictions(folder)
    Predictions(folder.rename(folder.with_name("other")))
    (folder.with_name("other") / "metrics.parquet").write_bytes(b"nothing")
    with pytest.raises(PredictionsError, match=r"metrics.parquet"):
        Predictions(folder.with_name("other"))


def test_situations_cover_hand_types_and_occlusion(folder):
    situations = Predictions(folder).situations()
    types = [samples for name, samples in situations.items() if name.startswith("hand type")]
    assert (np.sum(types, axis=0) == 1).all()
    assert all(samples.any() for samples in situations.values())


# ---- tags ------------------------------------------------------------------------------------------------------------


def test_tags_are_saved_at_once_and_outlive_new_predictions(folder, dataset, predict_wrongly, sent):
    browser = ErrorBrowser(folder)
    name = dataset["test"].index["id"][3]
    browser.tag(name, "bad  truth ")
    browser.tag(name, "mine")
    predict_wrongly(dataset["test"], folder, shift=4)
    again = ErrorBrowser(folder)
    assert again.tags == {name: ["bad truth", "mine"]}
    again.tag(name, "mine", on=False)
    assert ErrorBrowser(folder).tags == {name: ["bad truth"]}
    assert sent[-1][0] == {"kind": "tags", "tags": {name: ["bad truth"]}}


def test_two_browsers_do_not_lose_each_others_tags(folder, dataset):
    one, two = Predictions(folder), Predictions(folder)
    first, second = dataset["test"].index["id"][:2]
    one.tag(first, "ambiguous")
    two.tag(second, "ambiguous")
    assert set(Predictions(folder).tags) == {first, second}


@pytest.mark.parametrize(("name", "tag"), [("nobody", "bad truth"), (None, "  ")])
def test_an_invalid_tag_is_reported_in_the_page(folder, dataset, sent, name, tag):
    browser = ErrorBrowser(folder)
    request = {"kind": "tag", "id": name or dataset["test"].index["id"][0], "tag": tag, "on": True}
    browser._on_message(None, request, [])
    assert sent[-1][0]["kind"] == "fault"
    assert not browser.predictions.tags_file.exists()


# ---- the widget's state and answers ----------------------------------------------------------------------------------


def test_all_samples_are_shown_at_first_worst_first(folder):
    scores = ErrorBrowser(folder).filtered["course_miou"].to_numpy()
    assert len(scores) == 8
    assert (np.diff(scores) >= 0).all()


def test_filtered_follows_the_page_in_its_order(folder, dataset):
    browser = ErrorBrowser(folder)
    browser.set_trait("_rows", memoryview(np.array([5, 2], "<u4").tobytes()))
    assert browser.filtered["id"].tolist() == dataset["test"].index["id"][[5, 2]].tolist()
    browser.set_trait("_rows", b"")
    assert len(browser.filtered) == 0


def test_an_unknown_sample_cannot_be_selected(folder):
    with pytest.raises(EthandError, match="nobody"):
        ErrorBrowser(folder).selected = "nobody"


def test_pixels_come_as_they_are_in_the_stores(folder, sent):
    browser = ErrorBrowser(folder)
    browser._on_message(None, {"kind": "pixels", "rows": [6, 1]}, [])
    content, buffers = sent[-1]
    predictions = browser.predictions
    arrays = (predictions.data.images, predictions.store.masks, predictions.truth, predictions.front)
    assert content["rows"] == [6, 1]
    assert buffers == [np.asarray(array[[6, 1]]).tobytes() for array in arrays]


@pytest.mark.parametrize("request_", [{"kind": "pixels", "rows": [99]}, {"kind": "dance"}, {"kind": "counts"}])
def test_an_invalid_request_is_answered_with_an_error(folder, sent, request_):
    ErrorBrowser(folder)._on_message(None, request_, [])
    assert sent[-1][0]["kind"] == "fault"


def test_counts_without_a_file_come_in_chunks_and_are_kept(folder, sent, monkeypatch):
    monkeypatch.setattr("ethand_utils.app.browser.CHUNK", 3)
    whole = Predictions(folder).counts()
    (folder / "confusion.npz").unlink()
    browser = ErrorBrowser(folder)
    for start in (0, 3, 6):
        browser._on_message(None, {"kind": "counts", "start": start}, [])
    assert [(content["start"], content["stop"]) for content, _ in sent] == [(0, 3), (3, 6), (6, 8)]
    assert (Predictions(folder).cached_counts().data == whole.data).all()


def test_two_models_are_compared_sample_by_sample(folder, dataset, predict_wrongly, sent):
    predict_wrongly(dataset["test"], folder.with_name("other"), shift=4)
    browser = ErrorBrowser(folder, compare=folder.with_name("other"))
    table = browser.filtered.sort_index()
    other = pd.read_parquet(folder.with_name("other") / "metrics.parquet")
    assert (table["difference"] == table["course_miou"] - other["course_miou"]).all()
    browser._on_message(None, {"kind": "counts", "start": 0}, [])
    shares = np.frombuffer(sent[-1][1][-1], "<f4")
    assert (shares == disagreement(browser.predictions.store.masks, browser.compared.store.masks)).all()
    assert browser.filtered["disagreement"].notna().all()


def test_unlabelled_images_show_prediction_and_confidence_only(folder, dataset, tmp_path, sent):
    test = dataset["test"]

    def sample(i):
        return {"images": test.images[i], "row": {"id": test.index["id"][i]}}

    photos = build_store(tmp_path / "photos", StorePlan(sample, len(test), test.size, ("images",), {}))
    (folder / "metrics.parquet").unlink()
    browser = ErrorBrowser(folder, photos)
    assert browser._labels["truth"] is browser._labels["front"] is False
    assert [number["name"] for number in browser._worst["numbers"]] == ["confidence"]
    browser._on_message(None, {"kind": "pixels", "rows": [0]}, [])
    assert len(sent[-1][1]) == 2
    browser.save_view(tmp_path / "photos.png")
    assert browser.predictions.counts() is None


@pytest.mark.parametrize(("count", "size"), [(0, 64), (1, 64), (1, 128), (3, 128)])
def test_few_samples_and_every_size_open(tmp_path, sent, count, size):
    rng = np.random.default_rng(0)
    rows = {"id": [f"s{i}" for i in range(count)], "hand_type": ["left"] * count}
    for name in ("data", "net"):
        _write_store(tmp_path / name, rows, count, size, rng)
    browser = ErrorBrowser(tmp_path / "net", tmp_path / "data")
    for request in ({"kind": "open"}, {"kind": "counts", "start": 0}, {"kind": "pixels", "rows": list(range(count))}):
        browser._on_message(None, request, [])
    assert [content["kind"] for content, _ in sent] == ["samples", "counts", "pixels"]
    assert len(browser.filtered) == count
    assert browser._worst["size"] <= WORST_SIZE
    browser.save_page(tmp_path / "page.html")


def _write_store(path, rows, count, size, rng):
    """A store written by hand: `build_store` makes none without samples."""
    path.mkdir()
    np.save(path / "images.npy", rng.integers(0, 255, (count, size, size, 3), np.uint8))
    np.save(path / "masks.npy", rng.integers(0, N_CLASSES, (count, 2, size, size)).astype(np.uint8))
    pd.DataFrame(rows).to_parquet(path / "index.parquet")
    meta = {"format": FORMAT, "size": size, "count": count, "arrays": ["images", "masks"]}
    (path / "meta.json").write_text(json.dumps(meta))


# ---- files -----------------------------------------------------------------------------------------------------------


def test_save_view_writes_what_is_filtered_or_selected(folder, tmp_path):
    browser = ErrorBrowser(folder)
    browser.tag(browser.filtered["id"].iloc[0], "ambiguous")
    browser.save_view(tmp_path / "table.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["id"].tolist() == browser.filtered["id"].tolist()
    assert table["tags"][0] == "ambiguous"
    browser.save_view(tmp_path / "gallery.png")
    browser.selected, browser.view = table["id"][2], {"mode": "detail"}
    browser.save_view(tmp_path / "detail.png")
    sizes = [Image.open(tmp_path / name).size for name in ("gallery.png", "detail.png")]
    assert sizes[0] != sizes[1]


def test_save_view_refuses_what_it_cannot_write(folder, tmp_path):
    browser = ErrorBrowser(folder)
    with pytest.raises(EthandError, match=r"\.png .* or \.csv"):
        browser.save_view(tmp_path / "view.gif")
    browser.set_trait("_rows", b"")
    with pytest.raises(EthandError, match="nothing to draw"):
        browser.save_view(tmp_path / "view.png")


# ---- the page's own arithmetic, in a browser -------------------------------------------------------------------------


@pytest.fixture
def in_page(chromium):
    """Function that runs JavaScript with the page's script before it, and returns the JSON it prints."""

    def run(code):
        page = chromium.new_page()
        with page.expect_console_message() as message:
            page.add_script_tag(content=page_script() + code, type="module")
        return json.loads(message.value.text)

    return run


def test_the_page_classifies_errors_as_python_does(in_page, masks):
    predicted, truth = (array[0].reshape(2, -1) for array in masks)
    data = [predicted[0].tolist(), truth[0].tolist(), truth[1].tolist()]
    codes = in_page(f"console.log(JSON.stringify(Array.from(errorCodes(...{json.dumps(data)}))))")
    assert codes == error_classes(*masks)[0, 0].ravel().tolist()


def test_the_page_counts_filters_and_sorts_as_python_does(in_page, folder):
    browser = ErrorBrowser(folder)
    predictions, columns = browser.predictions, browser._columns(np.arange(8))
    counts = predictions.counts()
    pieces = [browser._count(rows) for rows in (np.arange(3), np.arange(3, 8))]
    arrays = [[array.tobytes().hex() for array in some] for some in (columns[1], *pieces)]
    code = f"""
const bytes = (hex) => new DataView(Uint8Array.from(hex.match(/../g) ?? [], (pair) => parseInt(pair, 16)).buffer);
const [columns, ...pieces] = {json.dumps(arrays)}.map((some) => some.map(bytes));
const samples = new Samples({json.dumps(columns[0])}, columns, {json.dumps(browser._labels)});
samples.addCounts(0, 3, pieces[0]);
samples.addCounts(3, 8, pieces[1]);
console.log(JSON.stringify({{
  worst: Array.from(samples.select([], "course_miou", false)),
  palm: Array.from(samples.values("part:9")).map((value) => (Number.isNaN(value) ? null : value)),
  cell: Array.from(samples.select([{{ kind: "cell", cell: 2 * 17 + 15 }}], "cell:49", true)),
  matrix: Array.from(samples.matrix(2, [1, 4])),
  two: samples.number({{ kind: "category", name: "hand_type", value: "interacting" }}),
  range: Array.from(samples.select([{{ kind: "range", name: "course_miou", low: 0.1, high: 0.5 }}], "", false)),
}}))
"""
    page = in_page(code)
    table, dense = predictions.table, np.stack([total_counts(counts, [i]) for i in range(8)])
    assert page["worst"] == np.argsort(table["course_miou"], kind="stable").tolist()
    palm = [part_iou(dense[i : i + 1, :2])[9] for i in range(8)]
    assert np.array(page["palm"], float) == pytest.approx(np.array(palm), rel=1e-6, nan_ok=True)
    pixels = dense[:, 0, 2, 15]
    assert page["cell"] == np.lexsort((np.arange(8), -pixels))[: (pixels > 0).sum()].tolist()
    assert page["matrix"] == dense[[1, 4], 2].sum(0).ravel().tolist()
    assert page["two"] == (table["hand_type"] == "interacting").sum()
    assert page["range"] == np.flatnonzero(table["course_miou"].between(0.1, 0.5)).tolist()
    assert len(MATRICES) == dense.shape[1]


def test_the_page_knows_no_part_by_name_or_number():
    script = page_script()
    assert not [part for part in PARTS[1:] if f'"{part}"' in script]
    assert "import " not in script.replace("important", "")
