"""The registry of sources, and which of them a folder is of."""

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ethand_utils.exceptions import require_known
from ethand_utils.files import FileError

if TYPE_CHECKING:
    from ethand_utils.data.store import Store
    from ethand_utils.sources.request import ReadRequest


@dataclass(frozen=True)
class Source:
    """A kind of data that a run can be made with.

    `title` names it in sentences and tables. `module` is the full name of a module with `detect(folder) -> bool`, which
    looks at a folder's files alone, and `read(root, out, request) -> dict[str, Store]`, which builds the stores of a
    data set in the folder `out` (`ReadRequest`); it is imported when one of them is called. `layout` says what a folder
    of it holds, for errors and help; it is empty where a source reads no folder, and then neither `detect` nor `root`
    is used. A source that is `in_place` has its data set in `root` itself and writes nothing. `unpaired_labels` says
    that it may have masks without images.
    """

    title: str
    module: str
    layout: str = ""
    in_place: bool = False
    uses_mano: bool = False
    unpaired_labels: bool = False

    @property
    def needs_folder(self) -> bool:
        """Whether its data are in a folder of the user's."""
        return bool(self.layout)

    @property
    def reads_files(self) -> bool:
        """Whether it builds stores from the files in a folder."""
        return self.needs_folder and not self.in_place

    def detect(self, folder: Path) -> bool:
        """Return whether `folder` holds data of this source."""
        return self.needs_folder and import_module(self.module).detect(folder)

    def read(self, root: Path | None, out: Path, request: "ReadRequest") -> dict[str, "Store"]:
        """Return the stores of the data set by name, built in `out` from what lies in `root`."""
        return import_module(self.module).read(root, out, request)


RENDERED = "rendered"  # the source of a run without a folder of data
# In the order in which a folder is tried. What is added here can be used in runs and has a command, `ethand data NAME`.
SOURCES = {
    RENDERED: Source("hands rendered for this run", "ethand_utils.sources.rendered", unpaired_labels=True),
    "labels": Source(
        "labels of one's own photos",
        "ethand_utils.sources.labels_dataset",
        layout="labels/NAME.json and meta.json, as the labeller writes them",
    ),
    "stores": Source(
        "existing stores",
        "ethand_utils.sources.stores",
        layout="<name>/meta.json, as `ethand data render` writes it",
        in_place=True,
    ),
    "course": Source(
        "the course's files",
        "ethand_utils.sources.course",
        layout="interhand.lmdb and the lists",
        unpaired_labels=True,
    ),
    "interhand": Source(
        "InterHand2.6M",
        "ethand_utils.sources.interhand",
        layout="*data.json, *camera.json and *joint_3d.json with the images",
        uses_mano=True,
    ),
}


def find_source(name: str) -> Source:
    """Return a source by its name in SOURCES. Raises FileError for an unknown one."""
    require_known("source", name, SOURCES, FileError)
    return SOURCES[name]


def detect_source(folder: str | Path) -> str:
    """Return the name in SOURCES of the source whose data lie in `folder`, going by its files alone.

    Raises FileError when there is no such folder, or it is of no known source.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"{folder}: no such folder; expected a folder of {_layouts()}")
    for name, source in SOURCES.items():
        if source.detect(folder):
            return name
    raise FileError(f"{folder}: holds no known kind of data; expected a folder of {_layouts()}")


def _layouts() -> str:
    """Return the titles and layouts of all sources that read a folder, with the commands that read them."""
    layouts = []
    for name, source in SOURCES.items():
        if source.needs_folder:
            command = f"; `ethand data {name}` reads it" if source.reads_files else ""
            layouts.append(f"{source.title} ({source.layout}{command})")
    return ", or of ".join(layouts)
