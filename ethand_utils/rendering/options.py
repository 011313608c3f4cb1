"""What can be chosen of rendered images: cameras, hands, rotation, occluders and backgrounds."""

from dataclasses import dataclass

from ethand_utils.exceptions import EthandError, require_known


@dataclass(frozen=True)
class Views:
    """Distribution of cameras: ±`yaw` degrees about the person's front, a `round_share` of them all around and above.

    Arms hold the hands askew by about `askew` degrees.
    """

    yaw: float
    askew: float
    round_share: float


# The whole dome; and an easier choice, from which small nets learn in minutes.
VIEWS = {"round": Views(yaw=75, askew=14, round_share=0.2), "front": Views(yaw=60, askew=0, round_share=0)}

# What each option that is a share is a share of, and the bounds of all.
SHARES = {
    "single_share": "share of the rendered images with one hand, not two",
    "second_rig_share": "share of the rendered people who have the second rig's hands",
    "rotation_share": "share of the rendered images in which hands have any rotation, not the capture's",
    "occluder_share": "share of the rendered images with an object in or before the hands",
    "photo_share": "share of the rendered images with a photograph behind the hands, not the dome",
    "box_jitter": "share by which the rendered hands' box is larger or smaller than they, and half of it moved",
}
SHARE_BOUNDS = {"ge": 0, "le": 1}


@dataclass(frozen=True)
class RenderOptions:
    """Options of a rendered data set: `views` is one of VIEWS, the others are SHARES, each 0…1.

    Every image draws for itself whether it is among a share, from a generator of its own: the larger share has the
    images of the smaller one, and all other draws stay as they were.
    """

    views: str = "round"
    single_share: float = 0.3
    second_rig_share: float = 0.5
    rotation_share: float = 0.0
    occluder_share: float = 0.0
    photo_share: float = 0.0
    box_jitter: float = 0.0

    def __post_init__(self):
        require_known("views", self.views, VIEWS)
        low, high = SHARE_BOUNDS["ge"], SHARE_BOUNDS["le"]
        for name in SHARES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise EthandError(f"{name}: {value}, expected a number from {low} to {high}")


DEFAULT_OPTIONS = RenderOptions()  # those of the capture
