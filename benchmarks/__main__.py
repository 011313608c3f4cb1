"""`python -m benchmarks [NAME ...] [--json]`: time the package beside plain code and print the ratios."""

import json
import sys
from typing import Annotated

import typer

from benchmarks import pipeline
from ethand_utils.exceptions import EthandError


def bench(
    names: Annotated[list[str] | None, typer.Argument(help=f"{', '.join(pipeline.BENCHMARKS)}; default: all")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Time this package and plain code, alternating in one run, and print the ratios."""
    try:
        figures = pipeline.run(names or list(pipeline.BENCHMARKS))
    except EthandError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    print(json.dumps(figures, indent=1) if as_json else pipeline.table(figures))


if __name__ == "__main__":
    typer.run(bench)
