"""The model card of a bundle, after Mitchell et al., Model Cards for Model Reporting (2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.attributes import Kind
from fattr.bundle import BundleSpec
from fattr.report.card_figures import SHOWN_METRICS, card_figures
from fattr.report.evaluation import words as words
from fattr.report.evaluation.facts import gate_sentence
from fattr.report.evaluation.verdict import KNOWN_BAD_RULE, known_bad, verdicts
from fattr.report.markdown import table
from fattr.report.markdown_text import code, safe

__all__ = ["SHOWN_METRICS", "card_figures", "model_card", "shown"]

Row = Mapping[str, Any]

USE = """\
For describing collections: how often something is seen in many photographs, with the errors known;
for audits of data sets, archives, and research on what pictures show. A label is what a model
trained on annotators' impressions says about a picture."""
OUT_OF_SCOPE = (
    "Decisions about a person: hiring, credit, access, policing, insurance, moderation.",
    "Identifying, matching or following anyone.",
    "Saying what a person is, feels or believes: a label is how a picture looks to annotators.",
    "Drawings, masks and medical pictures: none were measured.",
)
LIMITS = (
    "Groups that are rare in the training data are labelled worse: measure on your own pictures"
    " before you rely on it.",
    "Some of the labels it learned from and was measured against are wrong.",
    "Figures hold for pictures like those measured; probabilities too. Recalibrate on others.",
)


def shown(value: float | None) -> str:
    """A figure between 0 and 1, or a dash where it is undefined."""
    return "-" if value is None else f"{value:.4f}"


def model_card(spec: BundleSpec, model_id: str, *, figures: Mapping[str, Row]) -> str:
    """Markdown; ``figures`` maps ``data set, split`` to what evaluation wrote."""
    height, width = spec.crop_rule.size_hw
    restriction = "**Research only.** " if spec.research_only else ""
    lines = [
        f"# {safe(spec.name)}\n",
        f"model_id `{model_id}`\n",
        f"{spec.backbone} on {width}x{height} crops by the rule `{spec.crop_rule.name}`, "
        f"{len(spec.attributes)} attributes.\n",
        "## Licence and data\n",
        f"{restriction}{safe(spec.licence)}\n",
        *_data_lines(spec.training),
        "\n## Intended use\n",
        USE,
        "\n## Out of scope\n",
        *(f"- {use}" for use in OUT_OF_SCOPE),
        "\n## Limits\n",
        *_limit_lines(figures),
        "\n## Known-bad attributes\n",
        *_bad_lines(figures),
        "\n## Training\n",
        *_training_lines(spec.training),
        "\n## Calibration\n",
        *_calibration_lines(spec, figures),
        "\n## Measured\n",
        *(_measured(figures) if figures else ["Not yet: see `jobs/evaluate.py --card`."]),
        "\n## Attributes\n",
        *_attribute_lines(spec),
    ]
    return "\n".join(lines) + "\n"


def _data_lines(training: Row) -> Iterator[str]:
    for data in training["data"]:
        yield f"- {safe(data['name'])}: {data['images']} training images. {safe(data['licence'])}"


def _training_lines(training: Row) -> Iterator[str]:
    yield f"{code(training['command'])}\n"
    yield f"Recipe: {training['recipe']}; best epoch {training['best_epoch']} by `valid`.\n"
    yield f"On `valid`: mean accuracy {training['valid']['macro']['accuracy']:.4f}."


def _attribute_lines(spec: BundleSpec) -> Iterator[str]:
    for a in spec.attributes:
        kind = "" if a.kind is Kind.BINARY else f" ({a.kind}: {', '.join(map(safe, a.classes))})"
        mark = " [sensitive]" if a.sensitive else ""
        yield f"- `{a.name}`{mark}{kind}: {safe(a.description)}"


# Limits


def _limit_lines(figures: Mapping[str, Row]) -> Iterator[str]:
    yield from (f"- {limit}" for limit in LIMITS)
    for title, metrics in figures.items():
        if said := gate_sentence(metrics.get("robustness", {})):
            yield f"- Size, on {safe(title)}: {said}"
        elif metrics.get("min_face_px") is not None:
            yield (
                f"- Size, on {safe(title)}: measured with labels for all faces; those below "
                f"{metrics['min_face_px']:g} px get none when annotating."
            )


def _bad_lines(figures: Mapping[str, Row]) -> Iterator[str]:
    yield f"The rule: {KNOWN_BAD_RULE}."
    if not figures:
        yield "\nNot yet known: nothing was measured."
    for title, metrics in figures.items():
        bad = known_bad(metrics)
        yield f"\nOn {safe(title)}: {'none' if not bad else words.plural(len(bad), 'attribute')}.\n"
        yield from (f"- `{name}`: {safe(why)}" for name, why in bad.items())


def _calibration_lines(spec: BundleSpec, figures: Mapping[str, Row]) -> Iterator[str]:
    """How logits become labels; the calibration errors are those measured, before and after."""
    own = spec.calibration
    scaled = [name for name in own.temperatures if name not in own.curves]
    ways = {
        "by temperature": [name for name in scaled if name not in own.biases],
        "by temperature and bias (Platt)": [name for name in scaled if name in own.biases],
        "by an isotonic curve": list(own.curves),
    }
    counts = [
        f"{words.plural(len(names), 'attribute')} {how}" for how, names in ways.items() if names
    ]
    how = spec.training.get("calibration", {})
    parts = [
        f"{one['name']}, {one['split']} ({one['images']} images)" for one in how.get("data", ())
    ]
    if how.get("command"):
        yield f"{code(how['command'])}\n"
    yield f"Fitted on {safe('; '.join(parts)) or '`valid`'}: {'; '.join(counts) or 'nothing'}."
    yield (
        f"Thresholds of their own: {words.plural(len(own.thresholds), 'attribute')}. Abstention "
        f"bands: {words.plural(len(own.abstain), 'attribute')}."
    )
    fitted = how.get("macro", {})
    for metric in ("ece", "brier"):
        if metric in fitted:
            before, after = (shown(fitted[metric][when]) for when in ("before", "after"))
            held_out = shown(fitted.get("held_out", {}).get(metric))
            yield (
                f"Mean {words.title(metric)} where it was fitted: {before} before, {after} after, "
                f"{held_out} of faces held out."
            )
    for title, metrics in figures.items():
        if (off := metrics["macro"].get("ece")) is not None:
            squared = shown(metrics["macro"].get("brier"))
            yield f"On {safe(title)}: mean ECE {shown(off)}, mean Brier score {squared}."


# Figures


def _measured(figures: Mapping[str, Row]) -> Iterator[str]:
    """A section a measured data set; ``figures`` maps its title to ``card_figures``."""
    for title, metrics in figures.items():
        macro = metrics["macro"]
        yield f"\n### {safe(title)}\n"
        yield f"{code(metrics['command'])}\n"
        yield (
            f"{metrics['num_images']} images. Mean accuracy {shown(macro['accuracy'])}, mean "
            f"balanced accuracy {shown(macro['balanced_accuracy'])}, mean F1 {shown(macro['f1'])}, "
            f"mean average precision {shown(macro.get('average_precision'))} over "
            f"{metrics['num_macro_attributes']} attributes (age is none of them); faces detected "
            f"{shown(metrics['detection_recall'])}.\n"
        )
        for one in verdicts(metrics):
            yield f"- {one.question} **{safe(one.answer)}** {safe(one.text)}".rstrip()
        yield ""
        yield from _attribute_table(metrics["attributes"])
        yield from _group_tables(metrics["attributes"])
        yield from _coverage_tables(metrics.get("coverage", {}))


def _attribute_table(attributes: Mapping[str, Row]) -> Iterator[str]:
    used = [*SHOWN_METRICS, *(m for m in ("ece",) if any(m in row for row in attributes.values()))]
    spans = ["accuracy", "f1"]
    has_spans = any("intervals" in row for row in attributes.values())
    header = ["attribute", "n", *(metric.replace("_", " ") for metric in used)]
    header += [f"95 % of {metric}" for metric in spans if has_spans]
    yield from table(
        header,
        [
            [name, str(row["n"]), *(shown(row.get(metric)) for metric in used)]
            + [_span(row, metric) for metric in spans if has_spans]
            for name, row in attributes.items()
        ],
    )


def _span(row: Row, metric: str) -> str:
    return words.interval(row.get("intervals", {}).get(metric)) or "-"


def _group_tables(by_name: Mapping[str, Row]) -> Iterator[str]:
    """One table a group column: a row a group, or a row an attribute where those are more."""
    columns = dict.fromkeys(c for row in by_name.values() for c in row.get("by_group", {}))
    for column in columns:
        rows = {name: row.get("by_group", {}).get(column, {}) for name, row in by_name.items()}
        values = list(dict.fromkeys(value for own in rows.values() for value in own))
        said = safe(column.replace("*", " and "))
        yield f"\nAccuracy (and number of faces) by annotated {said}:\n"
        if len(values) >= len(rows):
            body = [[safe(v), *(_cell(own.get(v)) for own in rows.values())] for v in values]
            yield from table(["", *rows], body)
        else:
            body = [[name, *(_cell(own.get(v)) for v in values)] for name, own in rows.items()]
            yield from table(["", *map(safe, values)], body)


def _cell(one: Row | None) -> str:
    """Accuracy, number of faces and, where it is known, the 95 % interval."""
    if one is None:
        return "-"
    if one.get("status") == words.TOO_FEW:
        return f"{words.TOO_FEW} ({one['n']})"
    if one.get("accuracy") is None:
        return f"{words.NOT_ESTIMABLE} ({one['n']})"
    span = words.interval(one.get("intervals", {}).get("accuracy"))
    return f"{shown(one['accuracy'])} ({one['n']}) {span}".rstrip()


def _coverage_tables(coverage: Mapping[str, Mapping[str, Row]]) -> Iterator[str]:
    for column, values in coverage.items():
        metrics = list(
            dict.fromkeys(m for one in values.values() for m in one if m not in ("n", "status"))
        )
        said = safe(column.replace("*", " and "))
        yield f"\nFaces found and labels left out, by annotated {said}:\n"
        yield from table(
            ["", "n", *map(words.title, metrics)],
            [
                [safe(v), str(one["n"]), *(words.metric_in(one, m) for m in metrics)]
                for v, one in values.items()
            ],
        )
