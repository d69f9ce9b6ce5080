"""The training loop and what it needs; it never asks who launched it."""
