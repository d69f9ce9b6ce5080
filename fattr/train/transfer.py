"""First weights from a trained bundle: its features, and the heads that predict the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from safetensors.torch import load

from fattr.attributes import Attribute
from fattr.bundle import Bundle
from fattr.classify.network import AttributeNet
from fattr.errors import UsageError


@dataclass(frozen=True, slots=True)
class Matched:
    """Names of the heads that come from a bundle, and of those that start from random weights."""

    taken: tuple[str, ...]
    fresh: tuple[str, ...]


def match_heads(backbone: str, attributes: Sequence[Attribute], bundle: Bundle) -> Matched:
    """What a network of this backbone, with heads for ``attributes``, would take from a bundle.

    A head is taken where the bundle has an attribute of the same name, kind, classes and bins.

    Raises:
        UsageError: the bundle has another backbone.
    """
    if bundle.spec.backbone != backbone:
        raise UsageError(
            f"{bundle.spec.name} has the backbone {bundle.spec.backbone}, this run {backbone}: "
            f"use --backbone {bundle.spec.backbone} or another model"
        )

    def meaning(a: Attribute) -> object:
        return a.name, a.kind, a.classes, a.bin_edges

    known = {meaning(a) for a in bundle.spec.attributes}
    taken = tuple(a.name for a in attributes if meaning(a) in known)
    return Matched(taken, tuple(a.name for a in attributes if a.name not in taken))


def load_bundle_weights(network: AttributeNet, bundle: Bundle) -> Matched:
    """Put a bundle's features, neck and matching heads into the network; which heads those were.

    Raises:
        UsageError: the bundle has another backbone.
    """
    matched = match_heads(network.backbone, network.attributes, bundle)
    taken = tuple(f"heads.{name}." for name in matched.taken)
    found = {
        name: tensor
        for name, tensor in load(bundle.weights).items()
        if not name.startswith("heads.") or name.startswith(taken)
    }
    network.load_state_dict(network.state_dict() | found)
    return matched
