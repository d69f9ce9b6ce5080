"""Runs of an output: their names, leases, records, manifests."""
