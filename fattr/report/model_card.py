"""The model card of a bundle, after Mitchell et al., Model Cards for Model Reporting (2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fattr.attributes import Kind
from fattr.bundle import BundleSpec

USE = """\
Made for describing collections: how often something is seen in many photographs. Not for
decisions about a person, not for identifying anyone, not for inferring what a person is. A label
is what a model trained on annotators' impressions says about a picture. Groups that are rare in
the training data are labelled worse; measure on your own pictures before you rely on it."""


def _figures_table(figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """One table a measured data set; ``figures`` maps ``name/split`` to a ``metrics.json``."""
    for title, metrics in figures.items():
        macro = metrics["macro"]
        yield f"\n### {title}\n"
        yield f"`{metrics['command']}`\n"
        yield (
            f"Mean accuracy {macro['accuracy']:.4f}, mean balanced accuracy "
            f"{macro['balanced_accuracy']:.4f} over {metrics['num_macro_attributes']} attributes; "
            f"faces detected {metrics['detection_recall']:.4f}.\n"
        )
        yield "| attribute | n | accuracy | balanced accuracy |"
        yield "|---|--:|--:|--:|"
        for name, row in metrics["attributes"].items():
            balanced = row.get("balanced_accuracy")
            shown = "-" if balanced is None else f"{balanced:.3f}"
            yield f"| {name} | {row['n']} | {row['accuracy']:.3f} | {shown} |"


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
