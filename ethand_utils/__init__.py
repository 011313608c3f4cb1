"""ETHand: amodal hand-part segmentation with few labels."""

__version__ = "0.1.0"


class EthandError(Exception):
    """A fault the user can mend: one line that names the file, what was expected and what to do."""
