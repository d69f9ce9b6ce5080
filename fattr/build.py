"""The only module that turns settings into objects; below it, classes take plain arguments."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from fattr import tables
from fattr.attributes import Attribute, attribute
from fattr.bundle import Bundle
from fattr.bundle import find as find_bundle
from fattr.classify.classifier import (
    BATCH_SIZE,
    CPU_BATCH_SIZE,
    AttributeClassifier,
    load_network,
    onnx_forward,
    torch_forward,
)
from fattr.config import AnnotateConfig, DetectConfig
from fattr.detect import source as detectors
from fattr.detect.detector import Backend, FaceDetector
from fattr.detect.ncnn_backend import NcnnBackend
from fattr.detect.source import DetectorSource
from fattr.detect.torch_backend import TorchBackend
from fattr.errors import UsageError
from fattr.evaluation.scoring import ScoredModel, ScoreFaces
from fattr.stages import Annotate, Model

GPU_BATCH_SIZE = 8


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` is whichever is there."""
    if device != "auto":
        return device
    if not _has_driver():  # torch would say the same, two seconds later
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _has_driver() -> bool:
    """Whether torch might find a GPU: on Linux its usual builds need NVIDIA's driver for that."""
    if sys.platform != "linux" or "rocm" in metadata.version("torch"):
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def build_detector(
    source: DetectorSource,
    config: DetectConfig,
    *,
    device: str,
    batch_size: int = 1,
    num_threads: int = 1,
) -> FaceDetector:
    """The detector of the settings: ncnn for the shipped weights on CPU, else torch."""
    backend: Backend
    if source.name == detectors.SHIPPED and device == "cpu":
        backend = NcnnBackend(
            source.data,
            source.normalisation,
            score_threshold=config.score_threshold,
            nms_iou_threshold=config.nms_iou_threshold,
            num_threads=num_threads,
        )
    else:
        backend = TorchBackend(
            detectors.load_network(source),
            source.normalisation,
            score_threshold=config.score_threshold,
            nms_iou_threshold=config.nms_iou_threshold,
            device=device,
        )
    return FaceDetector(backend, long_side=config.detect_size, batch_size=batch_size)


@dataclass(frozen=True, slots=True, eq=False)
class AnnotatePlan:
    """All that a worker needs to label images; nothing in it is a path or a credential."""

    config: AnnotateConfig
    source: DetectorSource
    models: tuple[tuple[Bundle, tuple[Attribute, ...]], ...]  # with the attributes to write
    device: str
    uri_key_id: str | None = None  # of the key that URIs are hashed with; not the key

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """All that are written, in the order of their columns."""
        return tuple(a for _, attributes in self.models for a in attributes)


def choose_models(config: AnnotateConfig) -> tuple[tuple[Bundle, tuple[Attribute, ...]], ...]:
    """The bundles to run, each with the attributes it writes.

    An attribute is written by the first bundle that has it; a sensitive one only if asked for. A
    bundle that has nothing to write is left out.

    Raises:
        UsageError: an unknown model or attribute, or nothing left to write.
    """
    bundles = [find_bundle(name) for name in config.model_names]
    predicted = {a.name for bundle in bundles for a in bundle.spec.attributes}
    # A name that no bundle predicts is most likely misspelt: the vocabulary knows better.
    wanted = {n if n in predicted else attribute(n).name for n in config.sensitive_names}
    chosen, taken = [], set[str]()
    for bundle in bundles:
        writes = tuple(
            a
            for a in bundle.spec.attributes
            if a.name not in taken and (not a.sensitive or a.name in wanted)
        )
        taken |= {a.name for a in writes}
        if writes:
            chosen.append((bundle, writes))
    if missing := wanted - taken:
        raise UsageError(f"--sensitive {', '.join(sorted(missing))}: no --model predicts it")
    if not chosen:
        raise UsageError(
            "all attributes of the models are sensitive: name those to write with "
            '--sensitive A,B --purpose "why"'
        )
    return tuple(chosen)


def plan_annotate(config: AnnotateConfig, *, uri_key_id: str | None = None) -> AnnotatePlan:
    """The settings resolved: weights read and verified, attributes chosen.

    Raises:
        UsageError: something named does not exist or is damaged.
    """
    source, device = detectors.find(config.detector), resolve_device(config.device)
    return AnnotatePlan(config, source, choose_models(config), device, uri_key_id)


def images_per_detection(plan: AnnotatePlan) -> int:
    """How many images the detector looks at together: as asked, else as suits the device."""
    return plan.config.batch_size or (1 if plan.device == "cpu" else GPU_BATCH_SIZE)


def build_annotate(plan: AnnotatePlan, *, num_threads: int = 1) -> Annotate:
    """The stage that turns fetched rows into labelled ones, with its networks loaded."""
    config, device, batch_size = plan.config, plan.device, images_per_detection(plan)
    detector = build_detector(
        plan.source, config, device=device, batch_size=batch_size, num_threads=num_threads
    )
    models = [
        Model(
            build_classifier(bundle, device=device, num_threads=num_threads),
            bundle.spec.crop_rule,
            bundle.spec.calibration,
            attributes,
        )
        for bundle, attributes in plan.models
    ]
    return Annotate(
        detector,
        models,
        images_per_detection=batch_size,
        min_face_px=config.min_face_px,
        max_pixels=config.max_pixels,
    )


@dataclass(frozen=True, slots=True, eq=False)
class ScorePlan:
    """All that a worker needs to score labelled images."""

    config: DetectConfig
    source: DetectorSource | None  # None: the pictures are crops already
    bundles: tuple[Bundle, ...]
    device: str


def build_scoring(plan: ScorePlan, *, num_threads: int = 1) -> ScoreFaces:
    """The stage that turns fetched labelled images into logits, with its networks loaded."""
    detector = None
    if plan.source:
        detector = build_detector(
            plan.source, plan.config, device=plan.device, num_threads=num_threads
        )
    models = [
        ScoredModel(
            build_classifier(bundle, device=plan.device, num_threads=num_threads),
            bundle.spec.crop_rule,
        )
        for bundle in plan.bundles
    ]
    return ScoreFaces(detector, models)


def settings_of(plan: AnnotatePlan) -> dict[str, Any]:
    """All that can change a row; equal settings give equal rows."""
    config = plan.config
    return {
        "model_ids": [bundle.model_id for bundle, _ in plan.models],
        "detector_sha256": plan.source.sha256,
        "detect_size": config.detect_size,
        "detector_resize": "bilinear",  # antialiased until 2026-11
        "score_threshold": config.score_threshold,
        "nms_iou_threshold": config.nms_iou_threshold,
        "max_pixels": config.max_pixels,
        "max_bytes": config.max_bytes,
        "uri_key_id": plan.uri_key_id,
        "min_face_px": config.min_face_px,
        "sensitive": sorted(config.sensitive_names),
        "schema_version": tables.SCHEMA_VERSION,
    }


def settings_id(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings in canonical JSON."""
    text = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def build_classifier(bundle: Bundle, *, device: str, num_threads: int = 1) -> AttributeClassifier:
    """A bundle's classifier: onnxruntime on CPU, torch on a GPU."""
    attributes: tuple[Attribute, ...] = bundle.spec.attributes
    if device == "cpu":
        forward = onnx_forward(bundle.onnx, num_threads=num_threads)
    else:
        network = load_network(bundle.spec.backbone, attributes, bundle.weights)
        forward = torch_forward(network, device=device)
    size = CPU_BATCH_SIZE if device == "cpu" else BATCH_SIZE
    return AttributeClassifier(forward, attributes, bundle.spec.calibration, batch_size=size)
