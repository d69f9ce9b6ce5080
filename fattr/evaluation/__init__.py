"""A model against labelled faces: scores, figures, calibration, review."""
