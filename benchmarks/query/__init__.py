"""Seconds that questions to the published tables take, and what the files' layout changes."""
