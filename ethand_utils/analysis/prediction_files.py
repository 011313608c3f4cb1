"""Folders of predictions: which of them may be written. Imports no PyTorch."""

import json
from pathlib import Path

from ethand_utils.data.store import Store
from ethand_utils.outputs import claim_folder, relative_path, same_path


def claim_predictions(out: str | Path, store: Store, weights: str | Path | None = None) -> Path:
    """Return the real path of a folder for a net's predictions of a store.

    Raises OutputError unless the folder is new, empty, or holds predictions of the same store by the same weights, and
    when it is, holds or lies inside the store.
    """

    def is_same(folder: Path) -> bool:
        try:
            meta = json.loads((folder / "meta.json").read_text())
            data, noted = folder.resolve() / meta["data_path"], meta.get("weights")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        net = None if weights is None else relative_path(weights, folder)
        return meta.get("source") == "predictions" and same_path(data, store.path) and noted == net

    return claim_folder(out, (store.path, weights), is_same)
