"""The measured recipes of the package's net: `python -m benchmarks.recipes` writes the table beside this file."""

from pathlib import Path

import pandas as pd

RECIPES = Path(__file__).with_name("recipes.csv")


def read_recipes() -> pd.DataFrame:
    """Return the table, a row a recipe: what it changes, images seen in equal minutes, and its scores."""
    return pd.read_csv(RECIPES).set_index("recipe").round(3)
