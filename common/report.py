"""report.html: scores, pictures, the worst examples and how the run was made, in one file that can be sent."""

import base64
from html import escape
from pathlib import Path

from common.lines import shorten

STYLE = """
body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1f2430 }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #dde1e8 }
table { border-collapse: collapse; width: 100%; font-size: .93em }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #edf0f4; vertical-align: top }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums }
img { max-width: 100% } code, pre { background: #f4f6f9; padding: .1rem .3rem; border-radius: 4px }
pre { padding: .8rem; overflow-x: auto } .scores { display: flex; gap: 1rem; flex-wrap: wrap }
.score { background: #f4f6f9; border-radius: 8px; padding: .7rem 1.2rem } .score b { display: block; font-size: 1.5rem }
"""


def write_report(path: Path, outcome, recipe: dict, plots: list[Path], training_args) -> None:
    """Write the report of one run; it needs no other file and no network."""
    tiles = "".join(
        f'<div class="score">{split} {escape(name)}<b>{value:.4f}</b></div>'
        for split, scores in outcome.list_headline_scores().items()
        for name, value in scores.items()
    )
    pictures = "".join(
        f'<p><img alt="{escape(plot.stem)}" src="data:image/png;base64,{base64.b64encode(plot.read_bytes()).decode()}">'
        for plot in plots
    )
    tables = "".join(f"<h2>{escape(title)}</h2>{_draw_table(rows)}" for title, rows in outcome.tables.items() if rows)
    facts = _draw_table([{"": name, " ": _show_fact(value)} for name, value in recipe.items()])
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(Path(training_args.output_dir).name)}</title><style>{STYLE}</style>"
        f"<h1>{escape(Path(training_args.output_dir).name)}</h1>"
        f"<p>{escape(outcome.task)}, {escape(recipe['base_model'])}"
        f'<div class="scores">{tiles}</div>'
        f"{pictures}{tables}<h2>How it was made</h2><pre>{escape(recipe['command'])}</pre>{facts}"
        f"<h2>config.yaml</h2><details><summary>every setting</summary><pre>{escape(training_args.config_text)}</pre>"
        f"</details></html>\n"
    )
    path.write_text(page, encoding="utf-8")


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
