"""The second table: what G1 and G2 reach when there are fewer pairs, and what generated labels bring then."""

import json

import pandas as pd

from ethand_utils.ablation import by_hand, independent_people, kept_seeds, mean_scores, p_text, read_samples
from ethand_utils.runs import SHARE_ROWS, Run, RunError, share_name
from ethand_utils.statistics import bootstrap_interval
from ethand_utils.steps import one_step, settled
from ethand_utils.style import mean_text

PAIRS_ALONE, GENERATED = SHARE_ROWS
TITLES = {"g1": "G1", PAIRS_ALONE: "G2, pairs alone", GENERATED: "G2, generated labels"}
HOW = "No share of the pairs was trained on: ethand run --set 'shares=[0.01, 0.05, 0.2]' adds the second table."


def shares_of(run: Run) -> list[float]:
    """The shares of the pairs in the second table, the smallest first, all of them last; none without `shares`."""
    return [*sorted(run.profile.shares), 1.0] if run.profile.shares else []


def share_table(run: Run) -> pd.DataFrame:
    """The second table: a row a share and training (TITLES), the smallest share first.

    Columns `share`, `pairs` (how many these are), `row`, `model`; `ours`, the course mIoU over seeds, with `ours_sd`
    and `seeds`, and its interval over samples, `ours_low` and `ours_high`. Raises RunError for a training that is not
    there yet.
    """
    return pd.DataFrame([_score(run.at_share(share), share, row) for share in shares_of(run) for row in TITLES])


def _score(run: Run, share: float, row: str) -> dict:
    """One row of `share_table`."""
    folder = run.folder / ("g1" if row == "g1" else f"g2/{row}")
    found = [json.loads(file.read_text()) for file in sorted(folder.glob("**/result.json"))]
    files = sorted((run.folder / "predictions").glob("g1" if row == "g1" else f"{row}_seed*"))
    if not found or not files:
        raise RunError(f"{folder}: not trained yet on {share:.3g} of the pairs; `ethand run` trains what is missing")
    ends = bootstrap_interval(by_hand(mean_scores([read_samples(file / "metrics.parquet") for file in files])))
    scores = pd.Series([result["course_miou"] for result in found])
    known = {"ours": scores.mean(), "ours_low": ends.low, "ours_high": ends.high, "ours_sd": scores.std()}
    return {"share": share, "pairs": found[0]["pairs"], "row": row, "model": TITLES[row], **known, "seeds": len(scores)}


def share_steps(run: Run) -> pd.DataFrame:
    """What generated labels bring to G2 at each share: `steps.settled` of them all together, and their `share`."""
    found = []
    for share in shares_of(run):
        kept = {row: seeds for row, seeds in kept_seeds(run.at_share(share)).items() if row in SHARE_ROWS}
        if len(kept) < len(SHARE_ROWS):
            raise RunError(f"{share_name(share)}: lacks predictions of a row; `ethand run` trains what is missing")
        found.append(one_step(kept, PAIRS_ALONE, GENERATED, independent_people(run.at_share(share), kept)))
    return settled(found).assign(share=shares_of(run))


def shown_shares(table: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """`share_table` and `share_steps` as they are read: a row a share, a column a training, then what labels bring."""
    rows = []
    for (_, step), (share, scores) in zip(found.iterrows(), table.groupby("share"), strict=True):
        texts = {s["model"]: mean_text(s["ours"], s["ours_sd"], 4) for _, s in scores.iterrows()}
        brings = {"labels bring": f"{step['difference']:+.4f}", "95 %": f"{step['low']:+.4f} to {step['high']:+.4f}"}
        pairs = f"{scores['pairs'].iloc[0]:,.0f}"
        rows.append({"of the pairs": f"{100 * share:g} %", "pairs": pairs, **texts, **brings, "p": p_text(step["p"])})
        rows[-1] |= {"seeds up": f"{step['up']} of {step['seeds']}"} if step["seeds"] > 1 else {}
        rows[-1]["says"] = step["says"]
    return pd.DataFrame(rows)
