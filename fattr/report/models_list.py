"""``fattr models``: the shipped bundles with attributes, figures and licence."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from fattr import bundle
from fattr.bundle import Bundle
from fattr.report.model_card import shown


def _measured(model: Bundle) -> str:
    """Mean accuracy on every data set it was measured on."""
    figures = model.figures()
    parts = [f"{title}: {shown(entry['macro']['accuracy'])}" for title, entry in figures.items()]
    return "\n".join(parts) or "not measured"


def _attributes(model: Bundle) -> str:
    names = [a.name + ("*" if a.sensitive else "") for a in model.spec.attributes]
    return ", ".join(names)


def print_models() -> None:
    """Print the table of shipped bundles."""
    table = Table(title="Shipped models", show_lines=True)
    for column in ("model", "attributes (* sensitive)", "mean accuracy", "licence"):
        table.add_column(column, overflow="fold")
    for folder in bundle.shipped().values():
        model = bundle.load(folder)
        use = "RESEARCH ONLY. " if model.spec.research_only else ""
        name = f"{model.spec.name}\n{model.model_id[:12]}"
        table.add_row(name, _attributes(model), _measured(model), use + model.spec.licence)
    Console().print(table)
