"""Pages of HTML that stand alone: tables, pictures and text in one file. Nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Mapping
from html import escape
from pathlib import Path

import pandas as pd

from .files import atomic_text

# pandas gives the cells of a table no class of their own, but the table has those of its columns of numbers
NUMBER_CELLS = ", ".join(f".number-{place} td:nth-child({place})" for place in range(1, 13))
STYLE = f"""
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ padding: .25rem .8rem; border-bottom: 1px solid #ddd; text-align: left; }}
{NUMBER_CELLS} {{ text-align: right; font-variant-numeric: tabular-nums; }}
figure {{ margin: 1.5rem 0; }} img {{ max-width: 100%; height: auto; }} figcaption {{ color: #555; }}
"""


def table(frame: pd.DataFrame, numbers: Collection[str] = ()) -> str:
    """A table of texts as HTML; the columns named in `numbers` are aligned at their right."""
    classes = [f"number-{place}" for place, name in enumerate(frame.columns, 1) if name in numbers]
    with pd.option_context("display.max_colwidth", None):
        return frame.to_html(index=False, border=0, justify="left", classes=classes)


def fact_table(facts: Mapping[str, object]) -> str:
    """A table of names and what they are, as HTML."""
    with pd.option_context("display.max_colwidth", None):
        return pd.Series(facts, dtype=object).map(str).to_frame().to_html(header=False, border=0)


def picture(caption: str, path: Path) -> str:
    """A PNG file with its caption, as HTML that holds the picture itself."""
    data = base64.b64encode(path.read_bytes()).decode()
    shown = escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{shown}"><figcaption>{shown}</figcaption></figure>'


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Writes a page of its own from its title and pieces of HTML."""
    with atomic_text(path) as file:
        file.write(
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>\n<h1>{escape(title)}</h1>\n"
        )
        for part in parts:
            file.write(part + "\n")
        file.write("</body></html>\n")
