"""`python -m benchmarks [PART ...] [--json]`: time parts of the package beside plain ways, in turns in one run."""

import json
import sys
from typing import Annotated

import typer

from benchmarks import pipeline
from ethand_utils.exceptions import EthandError


def bench(
    parts: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(pipeline.PARTS)}; default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Time this package's ways beside plain ones, in turns in one run, and print the ratios."""
    try:
        figures = pipeline.run(parts or list(pipeline.PARTS))
    except EthandError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(json.dumps(figures, indent=1) if as_json else pipeline.table(figures))


if __name__ == "__main__":
    typer.run(bench)
