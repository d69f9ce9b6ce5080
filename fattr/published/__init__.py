"""The tables of finished runs: written, read, proven, rewritten."""
