"""The only package that imports ray: the same stages and loop, on a cluster."""
