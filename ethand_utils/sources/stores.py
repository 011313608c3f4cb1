"""Stores that were built before, used where they are."""

from pathlib import Path

from ethand_utils.data.datasets import open_dataset
from ethand_utils.data.store import Store
from ethand_utils.sources.request import ReadRequest


def detect(folder: Path) -> bool:
    """Return whether `folder` is a store or holds some."""
    return (folder / "meta.json").exists() or any(p.parent.name[0] != "." for p in folder.glob("*/meta.json"))


def read(root: Path, out: Path, request: ReadRequest) -> dict[str, Store]:
    """Open the stores in `root` by name, as they are. Raises StoreError when there are none, or one is damaged."""
    return open_dataset(root)
