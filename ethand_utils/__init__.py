"""ETHand: amodal hand-part segmentation with few labels."""

import warnings

__version__ = "0.1.0"

# timm scripts some layers; PyTorch says at each import and each net that scripting is deprecated. Users cannot help it.
warnings.filterwarnings("ignore", message=".*torch.jit.script.*", category=FutureWarning)


class EthandError(Exception):
    """A fault the user can mend: one line that names the file, what was expected and what to do."""
