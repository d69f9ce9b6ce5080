"""What cluster/constraints.txt must hold: all that fattr needs, as installed in this environment.

.venv/bin/python tests/cluster_files/lock.py > cluster/constraints.txt
"""

import re
from importlib import metadata

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

HEAD = """\
# All that fattr needs, directly or not, as tested together on Linux with Python 3.11; an image or a
# node installs these. Made anew from an environment that passed the tests by
#   .venv/bin/python tests/cluster_files/lock.py > cluster/constraints.txt
# Not here: the packages of NVIDIA and triton. Each index's build of torch needs others, and names
# their versions itself. Builds such as 2.14.1+cpu satisfy the plain pin, too.
"""
OF_TORCH = re.compile(r"nvidia-|cuda-|triton$")
TARGET = {
    **default_environment(),
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}


def closure(root, requires=metadata.requires):
    """All packages that one needs, directly or not, each with the ranges that others ask for.

    Args:
        root: Name of an installed package.
        requires: Gives a package's requirements, as its metadata has them, or None.
    """
    ranges, seen, left = {}, {(root, "")}, [(root, "")]
    while left:
        name, extra = left.pop()
        for requirement in map(Requirement, requires(name) or []):
            needed = canonicalize_name(requirement.name)
            if OF_TORCH.match(needed) or not applies(requirement.marker, extra):
                continue
            ranges.setdefault(needed, []).append(requirement.specifier)
            new = {(needed, one) for one in ("", *requirement.extras)} - seen
            seen |= new
            left += new
    return ranges


def applies(marker, extra):
    """Whether a requirement counts on the image, where that extra was asked for."""
    return marker is None or marker.evaluate({**TARGET, "extra": extra})


def text():
    """The whole file."""
    names = sorted(closure("fattr"))
    return HEAD + "".join(f"{n}=={Version(metadata.version(n)).public}\n" for n in names)


if __name__ == "__main__":
    print(text(), end="")
