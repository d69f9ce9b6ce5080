"""A search over training settings: what is tried, what came of it, and which was best. No Ray."""
