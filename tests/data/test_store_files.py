"""Files of a store: whatever they hold, a store or one line that never advises to remove what may be sound."""

import shutil

import pytest
from damage import damaged, deadline, require_line

from ethand_utils.data.store import Store, StoreError

TRIES = 60  # of each file


@pytest.mark.parametrize("name", ["meta.json", "index.parquet", "images.npy", "masks.npy", "front.npy"])
def test_damaged_files_of_a_store_are_read_or_named(name, dataset, tmp_path):
    shutil.copytree(dataset["test"].path, tmp_path / "store")
    file = tmp_path / "store" / name
    for what, content in damaged(file.read_bytes(), TRIES, seed=len(name)):
        file.write_bytes(content)
        with deadline(f"{name} {what}"):
            try:
                store = Store(tmp_path / "store")
                assert len(store.index) == len(store) == len(store.images)
            except StoreError as error:
                require_line(error, tmp_path / "store", what)
                advice = str(error).rpartition("; ")[2]
                require_line(StoreError(advice), "copy the store again from where it came", what)


def test_a_folder_in_place_of_a_file_is_named(dataset, tmp_path):
    for name in ("meta.json", "index.parquet", "masks.npy"):
        shutil.copytree(dataset["test"].path, tmp_path / name)
        (tmp_path / name / name).unlink()
        (tmp_path / name / name).mkdir()
        with pytest.raises(StoreError, match=rf"{name}/{name}"):
            Store(tmp_path / name)


def test_what_is_no_store_is_called_what_it_is(dataset, tmp_path):
    shutil.copytree(dataset["test"].path, tmp_path / "data/test")
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    for name, says in {
        "data": r"data: a data set, expected one of its stores \(test\), such as .*data/test",
        "file": r"file: a file, expected a store",
        "other": r"other: no store here \(no meta\.json in it\)",
        "none": r"none: no store here; build one",
    }.items():
        with pytest.raises(StoreError, match=says):
            Store(tmp_path / name)
    (tmp_path / "data/test/meta.json").unlink()
    with pytest.raises(StoreError, match=r"test/meta\.json: missing from this store; copy"):
        Store(tmp_path / "data/test")
