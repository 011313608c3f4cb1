"""A rendered photo of a hand whose joints have two answers: bent towards the camera, or away from it."""

from ethand_utils.hands.photo_fit import fit_photo_joints, guess_camera
from ethand_utils.labels import RIGHT
from ethand_utils.sources.label_fit import GUESSED
from ethand_utils.sources.rendered_photos import rendered_photo


def ambiguous_photo(size):
    """Return the first of some rendered photos of a right hand whose joints, as guesses, have two likely answers."""
    for i in (23, *range(23)):
        photo = rendered_photo(3, i, size, hand_type="right")
        fits = fit_photo_joints(photo["joints"][RIGHT], RIGHT, guess_camera(size, size), 21 * [GUESSED])
        if len(fits) == 2:
            return photo
    raise AssertionError("none of these photos has two answers")
