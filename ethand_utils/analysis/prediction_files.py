"""Folders of predictions: which may be written, and what they note of where they come from. Imports no PyTorch."""

import json
import os
from pathlib import Path

from ethand_utils.data.store import Store
from ethand_utils.outputs import claim_folder, same_path


def claim_predictions(out: str | Path, store: Store, weights: str | Path | None = None) -> Path:
    """Return the real path of a folder for a net's predictions of a store, which is not read for it.

    Raises OutputError unless nothing lies there, or predictions of the same store by the same weights, and when it is,
    holds or lies inside the store.
    """

    def same(folder: Path) -> bool:
        try:
            meta = json.loads((folder / "meta.json").read_text())
            data, net = folder.resolve() / meta["data_path"], meta.get("weights")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
        return (
            meta.get("source") == "predictions" and same_path(data, store.path) and net == weights_note(weights, folder)
        )

    return claim_folder(out, (store.path, weights), same)


def weights_note(weights: str | Path | None, out: Path) -> str | None:
    """Return what predictions in `out` note of the weights they come from: their path from there."""
    return None if weights is None else os.path.relpath(os.path.realpath(weights), os.path.realpath(out))
