"""ETHand: amodal hand-part segmentation with few labels."""

import warnings

from ethand_utils.exceptions import EthandError

__all__ = ["EthandError"]
__version__ = "1.4.0"

# timm scripts some layers; PyTorch says at each import and each net that scripting is deprecated. Users cannot help it.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)
