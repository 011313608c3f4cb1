"""Code that notebooks show."""

from ethand_utils.app import show_source
from ethand_utils.training import LOSSES, Adversarial


def test_the_source_of_a_class_and_of_a_nested_function_is_shown_as_written():
    shown = show_source(Adversarial, LOSSES["tversky"].compute)
    text = repr(shown)
    assert text.startswith("class Adversarial(Callback):")
    assert "\n\n\ndef compute(logits" in text
    assert "monospace" in shown._repr_html_()
