"""What a reader of other data found: how much it listed, read and kept, and what it skipped and why."""

import pandas as pd

REPORT = "report.json"  # of a data set that was read, beside its stores
EXAMPLES = 10  # names kept with every reason


class Faults:
    """What was passed over: by reason, how often, with the first EXAMPLES names, in `found`."""

    def __init__(self):
        self.found: dict[str, dict] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count something of this `name`."""
        entry = self.found.setdefault(reason, {"count": 0, "names": []})
        entry["count"] += count
        if len(entry["names"]) < EXAMPLES:
            entry["names"].append(name)

    def commonest_first(self) -> dict[str, dict]:
        """`found`, sorted."""
        return dict(sorted(self.found.items(), key=lambda item: -item[1]["count"]))


def report_table(report: dict) -> pd.DataFrame:
    """A `report.json` as a table, a row a fact: `what`, of which split or store or for which reason, `count`, `names`.

    Of the report, `listed` counts what the lists or annotations name, `passed_over` their entries at fault, `skipped`
    samples by reason, `kept` those in each store; `left_out` says why a store is not there at all.
    """
    rows = [("listed", split, count, []) for split, count in report.get("listed", {}).items()]
    for split, faults in report.get("passed_over", {}).items():
        rows += [("passed over", f"{split}: {why}", found["count"], found["names"]) for why, found in faults.items()]
    rows += [("skipped", why, found["count"], found["names"]) for why, found in report.get("skipped", {}).items()]
    rows += [("kept", store, count, []) for store, count in report.get("kept", {}).items()]
    rows += [("left out", f"{store}: {why}", 0, []) for store, why in report.get("left_out", {}).items()]
    table = pd.DataFrame(rows, columns=["what", "of", "count", "names"])
    return table.assign(names=table["names"].map(lambda names: " ".join(map(str, names[:2])))).set_index("what")
