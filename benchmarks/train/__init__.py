"""Training on Ray, the same loop without Ray, and a minimal torch loop, beside one another."""
