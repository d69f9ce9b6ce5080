"""The model card of a bundle, after Mitchell et al., Model Cards for Model Reporting (2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.attributes import Kind
from fattr.bundle import BundleSpec
from fattr.report.markdown import table

USE = """\
Made for describing collections: how often something is seen in many photographs. Not for
decisions about a person, not for identifying anyone, not for inferring what a person is. A label
is what a model trained on annotators' impressions says about a picture. Groups that are rare in
the training data are labelled worse; measure on your own pictures before you rely on it."""


SHOWN_METRICS = ("accuracy", "balanced_accuracy", "f1", "average_precision", "one_off_accuracy")


def shown(value: float | None) -> str:
    """A figure between 0 and 1, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.4f}"


def card_figures(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a ``metrics.json`` that the card shows."""
    fields = ("command", "num_images", "detection_recall", "num_macro_attributes", "macro")
    attributes = {
        name: _row_figures(row)
        | {
            "by_group": {
                column: {value: _row_figures(one) for value, one in values.items()}
                for column, values in row.get("by_group", {}).items()
            }
        }
        for name, row in metrics["attributes"].items()
    }
    return {name: metrics[name] for name in fields} | {"attributes": attributes}


def _row_figures(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("n", *SHOWN_METRICS) if name in row}


def _figures_table(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A section a measured data set; ``figures`` maps its title to ``card_figures``."""
    for title, metrics in figures.items():
        macro = metrics["macro"]
        yield f"\n### {title}\n"
        yield f"`{metrics['command']}`\n"
        yield (
            f"{metrics['num_images']} images. Mean accuracy {shown(macro['accuracy'])}, mean "
            f"balanced accuracy {shown(macro['balanced_accuracy'])}, mean F1 {shown(macro['f1'])}, "
            f"mean average precision {shown(macro.get('average_precision'))} over "
            f"{metrics['num_macro_attributes']} attributes (age is none of them); faces detected "
            f"{shown(metrics['detection_recall'])}.\n"
        )
        names = " | ".join(metric.replace("_", " ") for metric in SHOWN_METRICS)
        yield f"| attribute | n | {names} |"
        yield "|---|--:|" + "--:|" * len(SHOWN_METRICS)
        for name, row in metrics["attributes"].items():
            cells = [shown(row.get(metric)) for metric in SHOWN_METRICS]
            yield f"| {name} | {row['n']} | {' | '.join(cells)} |"
        yield from _group_tables(metrics["attributes"])


def _group_tables(by_name: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One table a group column: a row a group, or a row an attribute where those are more."""
    first = next(iter(by_name.values()))
    for column, values in first.get("by_group", {}).items():
        cells = {
            (name, value): f"{shown(one['accuracy'])} ({one['n']})"
            for name, row in by_name.items()
            for value, one in row["by_group"][column].items()
        }
        yield f"\nAccuracy (and number of faces) by annotated {column.replace('*', ' and ')}:\n"
        if len(values) >= len(by_name):
            rows = [[v, *(cells[name, v] for name in by_name)] for v in values]
            yield from table(["", *by_name], rows)
        else:
            rows = [[name, *(cells[name, v] for v in values)] for name in by_name]
            yield from table(["", *values], rows)


def _data_lines(training: Mapping[str, Any]) -> Iterator[str]:
    for data in training["data"]:
        yield f"- {data['name']}: {data['images']} training images. {data['licence']}"


def _attribute_lines(spec: BundleSpec) -> Iterator[str]:
    for a in spec.attributes:
        kind = "" if a.kind is Kind.BINARY else f" ({a.kind}: {', '.join(a.classes)})"
        yield f"- `{a.name}`{' [sensitive]' if a.sensitive else ''}{kind}: {a.description}"


def model_card(spec: BundleSpec, model_id: str, *, figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown; ``figures`` maps ``data set, split`` to what evaluation wrote."""
    training = spec.training
    height, width = spec.crop_rule.size_hw
    restriction = "**Research only.** " if spec.research_only else ""
    lines = [
        f"# {spec.name}\n",
        f"model_id `{model_id}`\n",
        f"{spec.backbone} on {width}x{height} crops by the rule `{spec.crop_rule.name}`, "
        f"{len(spec.attributes)} attributes.\n",
        "## Licence and data\n",
        f"{restriction}{spec.licence}\n",
        *_data_lines(training),
        "\n## Intended use and limits\n",
        USE,
        "\n## Training\n",
        f"`{training['command']}`\n",
        f"Recipe: {training['recipe']}; best epoch {training['best_epoch']} by `valid`. "
        "Temperatures and thresholds were fitted on `valid`, thresholds for accuracy.\n",
        f"On `valid`: mean accuracy {training['valid']['macro']['accuracy']:.4f}.\n",
        "## Measured\n",
        *(_figures_table(figures) if figures else ["Not yet: see `jobs/evaluate.py --card`."]),
        "\n## Attributes\n",
        *_attribute_lines(spec),
    ]
    return "\n".join(lines) + "\n"
