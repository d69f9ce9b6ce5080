"""The only module that turns settings into objects; below it, classes take plain arguments."""

from __future__ import annotations

import os

from fattr.attributes import Attribute
from fattr.bundle import Bundle
from fattr.classify.classifier import (
    AttributeClassifier,
    load_network,
    onnx_forward,
    torch_forward,
)
from fattr.config import DetectConfig
from fattr.detect import source as detectors
from fattr.detect.backends import OnnxBackend, TorchBackend
from fattr.detect.detector import Backend, FaceDetector
from fattr.detect.source import DetectorSource


def cpu_count() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(device: str) -> str:
    """``cpu`` or ``cuda``; ``auto`` is whichever is there."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def build_detector(
    source: DetectorSource,
    config: DetectConfig,
    *,
    device: str,
    batch_size: int = 1,
    num_threads: int = 1,
) -> FaceDetector:
    """The detector of the settings: onnxruntime for the shipped weights on CPU, else torch."""
    backend: Backend
    if source.name == detectors.SHIPPED and device == "cpu":
        backend = OnnxBackend(
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


def build_classifier(bundle: Bundle, *, device: str, num_threads: int = 1) -> AttributeClassifier:
    """A bundle's classifier: onnxruntime on CPU, torch on a GPU."""
    attributes: tuple[Attribute, ...] = bundle.spec.attributes
    if device == "cpu":
        forward = onnx_forward(bundle.onnx, num_threads=num_threads)
    else:
        network = load_network(bundle.spec.backbone, attributes, bundle.weights)
        forward = torch_forward(network, device=device)
    return AttributeClassifier(forward, attributes, bundle.spec.calibration)
