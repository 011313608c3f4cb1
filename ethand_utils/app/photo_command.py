"""`ethand predict`: masks of photos, one line each."""

import sys
from pathlib import Path

from tqdm import tqdm

from ethand_utils.analysis.hand_finder import photo_views
from ethand_utils.analysis.photo_files import RESULT, RESULTS, claim_result, list_photos, parse_box, result_folders
from ethand_utils.data.images import read_photo
from ethand_utils.exceptions import EthandError
from ethand_utils.failures import failure_line
from ethand_utils.labels import HANDS
from ethand_utils.outputs import claim_shared_folder
from ethand_utils.training.photo_graph import released_graph
from ethand_utils.training.predicted import PLAIN, Inference


def predict_photos(paths: list[Path], weights: Path | None, out: Path | None, box: str = "") -> bool:
    """Predict photos, and those in folders, into `out` or RESULTS; return whether all of them were predicted.

    Only one photo is in memory at a time. Raises EthandError, before any photo is predicted, when there is none, and
    for weights, a box or an output folder at fault.
    """
    corners = parse_box(box) if box else None
    photos, others = list_photos(paths)
    for other in others:
        print(f"{other}: skipped, as it is no photo", file=sys.stderr)
    if not photos:
        raise EthandError(f"{', '.join(map(str, paths))}: no photos here; expected files such as .jpg or .png")
    claim_shared_folder(out or RESULTS, [weights])
    if not any(photo.exists() for photo in photos):
        read_photo(photos[0])  # says what is wrong, before PyTorch is imported
    net, succeeded, folders = _load(weights), True, result_folders(photos, out)
    for photo, folder in zip(tqdm(photos, unit="photo", disable=len(photos) < 2 or None), folders, strict=True):
        try:
            tqdm.write(f"{photo}: {_predict_photo(photo, folder, net, corners)}; {folder / RESULT}")
        except (EthandError, OSError, MemoryError) as error:
            text = failure_line(error)
            tqdm.write(f"ethand: {text if str(photo) in text else f'{photo}: {text}'}", file=sys.stderr)
            succeeded = False
    return succeeded


def _load(weights: Path | None) -> tuple:
    """Return a net, its images' size and how it is used: the package's own as a graph, where that can be had."""
    graph = released_graph() if weights is None else None
    if graph is not None:
        return graph, graph.size, PLAIN
    from ethand_utils.training.models import load_net

    model, notes = load_net(weights)
    return model, notes["size"], Inference.of(notes)


def _predict_photo(photo: Path, folder: Path, net: tuple, corners: tuple[float, float, float, float] | None) -> str:
    """Predict a photo into a folder; return which hands were seen."""
    from ethand_utils.analysis.photos import predict_view, save_photo

    (model, size, how), pixels = net, read_photo(photo)
    claim_result(folder, photo.name, photo)
    hands = [predict_view(model, pixels, size, view, how) for view in photo_views(pixels, corners)]
    save_photo(folder, photo.name, pixels, hands, photo)
    return _summary(hands)


def _summary(hands) -> str:
    """Return which hands were seen: `left and right hand`, or `no hands found`."""
    if not hands:
        return "no hands found"
    names = [" and ".join(name for name in HANDS if one.describe()[name]["present"]) for one in hands]
    return "; ".join(
        f"{name or 'no'} hand, confidence {one.confidence:.2f}" for name, one in zip(names, hands, strict=True)
    )
