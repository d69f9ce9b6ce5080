"""Crops to probabilities to labels: the network, its augmentation, its calibration."""
