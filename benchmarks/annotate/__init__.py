"""Annotate beside a bare loop and beside other engines, on the same images and weights."""
