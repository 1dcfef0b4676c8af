"""report.html: scores, pictures, the worst examples and how the run was made, in one file that can be sent."""

import base64
from html import escape
from pathlib import Path

from common.intervals import RESAMPLES, format_interval
from common.lines import shorten
from common.tallies import name_unit

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2430 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #dde1e8 }
table { border-collapse: collapse; width: 100%; font-size: .93em }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #edf0f4; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
.plots { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem 2% } .plots img { width: 49% }
.plots img.wide { width: 100% } code, pre { background: #f4f6f9; padding: .1rem .3rem; border-radius: 4px }
pre { padding: .8rem; overflow-x: auto } .scores { display: flex; gap: 1rem; flex-wrap: wrap; margin: 1rem 0 }
.score { background: #f4f6f9; border-radius: 8px; padding: .7rem 1.2rem } .score b { display: block; font-size: 1.5rem }
"""


def write_report(path: Path, outcome, recipe: dict, plots: list[Path], training_args) -> None:
    """Write the report of one run; it needs no other file and no network."""
    tiles = "".join(_draw_tiles(outcome, split, scores) for split, scores in outcome.list_headline_scores().items())
    pictures = "".join(map(_draw_picture, plots))
    tables = "".join(f"<h2>{escape(title)}</h2>{_draw_table(rows)}" for title, rows in outcome.tables.items() if rows)
    facts = _draw_table([{"": name, " ": _show_fact(value)} for name, value in recipe.items()])
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(Path(training_args.output_dir).name)}</title><style>{STYLE}</style>"
        f"<h1>{escape(Path(training_args.output_dir).name)}</h1>"
        f"<p>{escape(outcome.task)}, {escape(recipe['base_model'])}"
        f'{tiles}{_explain_intervals(outcome)}<div class="plots">{pictures}</div>'
        f"{tables}<h2>How it was made</h2><pre>{escape(recipe['command'])}</pre>{facts}"
        f"<h2>config.yaml</h2><details><summary>every setting</summary><pre>{escape(training_args.config_text)}</pre>"
        f"</details></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _draw_tiles(outcome, split: str, scores: dict[str, float]) -> str:
    intervals = outcome.list_intervals(split)
    tiles = "".join(
        f'<div class="score">{split} {escape(name)}<b>{value:.4f}</b>'
        f"<small>{format_interval(intervals.get(name))}</small></div>"
        for name, value in scores.items()
    )
    return f'<div class="scores">{tiles}</div>'


def _draw_picture(plot: Path) -> str:
    content = base64.b64encode(plot.read_bytes()).decode()
    size = ' class="wide"' if plot.stem == "learning_curve" else ""
    return f'<img{size} alt="{escape(plot.stem)}" src="data:image/png;base64,{content}">'


def _explain_intervals(outcome) -> str:
    """What the numbers in brackets are, and which scores have none."""
    if not any(map(outcome.list_intervals, ("validation", "test"))):
        return ""
    scores = outcome.list_headline_scores()
    bare = {name for split in scores for name in scores[split] if name not in outcome.list_intervals(split)}
    text = f"In brackets: 95 % intervals by the bootstrap over the {name_unit(outcome.task)} of the split "
    text += f"({RESAMPLES} draws, percentiles)."
    text += f" Without: {', '.join(sorted(bare))}, which the predictions alone do not give." if bare else ""
    return f"<p><small>{escape(text)}</small>"


def _draw_table(rows: list[dict]) -> str:
    """An HTML table with the keys of the first row as its head; numbers stand right."""
    if not rows:
        return ""
    names = list(rows[0])
    numeric = {name for name in names if all(isinstance(row[name], int | float) for row in rows)}
    head = "".join(f"<th{_align(name, numeric)}>{escape(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td{_align(name, numeric)}>{_format(row[name])}</td>" for name in names) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _align(name: str, numeric: set[str]) -> str:
    return ' class="number"' if name in numeric else ""


def _format(value) -> str:
    return f"{value:.4f}" if isinstance(value, float) else escape(str(value))


def _show_fact(value) -> str:
    return shorten(", ".join(map(str, value)) if isinstance(value, list) else str(value))
