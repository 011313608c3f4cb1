"""The front page of a run: Table 1, the main figures, and a link to every executed notebook."""

import base64
import html
from pathlib import Path

import pandas as pd

from ethand_utils.chain import stages
from ethand_utils.files import atomic_write
from ethand_utils.runs import TABLE_HEADINGS, Run, results

FIGURES = {
    "figures/table1.png": "Table 1: the report's score and this run's",
    "figures/g1_panels.png": "G1 on a held-out sample: input with prediction, prediction, truth, error map, input",
    "figures/full_panels.png": "The full method on a sample in which one hand hides much of the other",
    "figures/pseudo_labels.png": "Pseudo-labels: G1's confidence against their true quality",
    "figures/explore.png": "How often each part is seen",
    "figures/augment.png": "One sample, augmented",
    "figures/predict.png": "The full method's masks",
}
CSS = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
img { max-width: 100%; background: white; }
figure { margin: 2rem 0; }
figcaption { color: gray; }
"""


def write_index(run: Run) -> Path:
    """Write `index.html` of a finished run, self-contained but for the links to `html/`."""
    path = run.folder / "index.html"
    with atomic_write(path) as temporary:
        temporary.write_text(_page(run), encoding="utf-8")
    return path


def _page(run: Run) -> str:
    table = pd.read_csv(run.folder / "table1.csv").drop(columns="row")
    formats = dict.fromkeys(table.columns[1:3], "{:.4f}".format) | dict.fromkeys(table.columns[3:], "{:+.2f}".format)
    shown = table.to_html(index=False, formatters=formats, na_rep="–", border=0, header=list(TABLE_HEADINGS))
    figures = "".join(_figure(run.folder / name, caption) for name, caption in FIGURES.items())
    score = results(run).iloc[0]
    links = "".join(f'<li><a href="html/{s.name}.html">{s.name}</a></li>' for s in stages(run.profile))
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>ETHand: run {html.escape(run.name)}</title><style>{CSS}</style>
<h1>ETHand: run {html.escape(run.name)}</h1>
<p>Amodal hand-part segmentation: course mIoU on {score["scored_samples"]} samples that no training has seen
(<code>{score["scored_on"]}</code>), beside the report's on InterHand2.6M. The two columns are of different data:
compare their differences, not their values.</p>
{shown}{figures}
<h2>Notebooks</h2><ul>{links}</ul>
</html>
"""


def _figure(path: Path, caption: str) -> str:
    if not path.exists():
        return ""
    encoded = base64.b64encode(path.read_bytes()).decode()
    image = f'<img alt="{caption}" src="data:image/png;base64,{encoded}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
