"""Settings of the jobs: frozen, checked once, and flags of the command line."""

from fattr.config.annotate import (
    DEFAULT_MODELS,
    AnnotateConfig,
    ContactSheetConfig,
    ForgetConfig,
    RetryConfig,
    VerifyConfig,
)
from fattr.config.demo import DemoConfig
from fattr.config.detect import DetectConfig
from fattr.config.measure import CalibrateConfig, DescribeDataConfig, EvaluateConfig
from fattr.config.train import ArchitecturesConfig, TrainConfig
from fattr.config.tune import TuneConfig

__all__ = [
    "DEFAULT_MODELS",
    "AnnotateConfig",
    "ArchitecturesConfig",
    "CalibrateConfig",
    "ContactSheetConfig",
    "DemoConfig",
    "DescribeDataConfig",
    "DetectConfig",
    "EvaluateConfig",
    "ForgetConfig",
    "RetryConfig",
    "TrainConfig",
    "TuneConfig",
    "VerifyConfig",
]
