"""Mistakes put into a document."""

import copy


def edited(document, path, value):
    """A copy with a value put in at a path of keys and positions; None takes out what is there."""
    document = copy.deepcopy(document)
    *parents, last = path
    inner = document
    for part in parents:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return document
