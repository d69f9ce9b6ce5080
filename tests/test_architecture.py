"""The house rules that a reader cannot check by eye, over the syntax trees of all modules."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import fattr

ROOT = Path(__file__).parents[1]
FATTR = ROOT / "fattr"
MODULES = sorted(FATTR.rglob("*.py"))

# Lowest first. A module may import what stands in a row above its own, or its own package; two
# names of one row never import each other. A new module must be given its place here.
LAYERS = (
    {"errors", "records"},  # words
    {"attributes", "config"},
    {"boxes", "device", "images", "storage", "weights", "progress", "spans"},  # tools
    {"notify", "outputs", "sizing"},
    {"runs", "sources", "tables"},
    {"detect", "crop", "corruptions", "classify", "datasets"},  # rooms
    {"bundle", "labelled_crops", "metrics", "published"},  # uses
    {"bottleneck", "increment", "report", "stages"},
    {"evaluation", "sandbox", "train"},
    {"presets", "build", "tuning"},  # assembly
    {"local_engine", "on_ray"},  # engines
    {"commands"},
    {"demo"},
    {"cli"},
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

# Settings stop at the assembly: what is below takes plain arguments.
CONFIG_FROM = RANK["build"]

# Third-party package -> the only places that may import it, at the top or within a function.
ONLY_HERE = {
    "ray": ("on_ray/",),
    "boto3": ("storage/s3.py",),
    "botocore": ("storage/s3.py",),
    "PIL": (
        "images.py",
        "crop.py",
        "corruptions.py",
        "classify/transforms.py",
        "detect/detector.py",
        "report/",
        "demo.py",
        "datasets/check.py",
        "datasets/synthetic.py",
    ),
    "pillow_heif": ("images.py",),
    "simplejpeg": ("images.py",),
    "ncnn": ("detect/ncnn_backend.py",),
    "torch": (
        "detect/",
        "classify/",
        "train/",
        "build.py",
        "device.py",
        "on_ray/train_context.py",
        "on_ray/tune.py",
    ),
    "torchvision": ("detect/", "classify/"),
    "pandas": ("report/", "metrics/", "published/catalog.py"),
    "duckdb": ("report/", "published/catalog.py", "published/verify.py", "increment/"),
    "wcmatch": ("sources/globs.py",),
    "tyro": ("cli.py",),
    "skimage": ("demo.py",),
    "matplotlib": ("demo.py", "report/"),
    "h5py": ("datasets/lfwa.py",),
    "sklearn": ("classify/fit_calibration.py",),
    "scipy": ("classify/fit_calibration.py", "metrics/"),
    "cleanlab": ("evaluation/review.py",),
    "fairlearn": (),
    "retinaface": (),  # weights are read as bytes; the package that carries them is never run
    "jobs": (),
}
ENVIRONMENT_READERS = (
    "__init__.py",
    "storage/records.py",
    "on_ray/session.py",
    "commands/engine.py",  # asks for a cluster without importing ray
    "commands/score_data.py",  # as well
)

# Modules that need torch, or Ray, to be imported at all. All others must import without both:
# a CPU worker runs on ncnn and onnxruntime.
NEED_TORCH = re.compile(
    r"fattr\.(detect\.network"
    r"|classify\.(backbones|cost|export|imagenet|network|noise|transforms)"
    r"|train\.(?!loss_settings|plan).+"
    r"|commands\.train_plan)"
)
NEED_RAY = re.compile(r"fattr\.(on_ray|on_ray\..+|commands\.(train|tune))")

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 450


def place_of(path):
    return path.relative_to(FATTR).as_posix()


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULE_NAMES = {module_of(path) for path in MODULES}


def imported(source):
    """Full names that a module imports anywhere; of ``from a import b`` both a and a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def strays(source, place):
    """Packages that a module at ``place`` must not import, and does."""
    roots = {name.partition(".")[0] for name in imported(source)}
    return sorted(
        package
        for package, rooms in ONLY_HERE.items()
        if package in roots and not place.startswith(rooms or ("/",))
    )


def own_imports(source):
    """Names below ``fattr`` of the modules that a module imports: ``from fattr import x`` is x."""
    names = {name for name in imported(source) if name in MODULE_NAMES}
    return sorted(name.split(".")[1] for name in names - {"fattr"})


def upward(source, place):
    """Modules that a module at ``place`` imports although they are not below it."""
    own = place.partition("/")[0].removesuffix(".py")
    return [
        other
        for other in own_imports(source)
        if other != own and RANK.get(other, -1) >= RANK.get(own, 99)
    ]


def environment_uses(source):
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"})
        or (isinstance(node, ast.alias) and node.name in {"environ", "getenv"})
    ]


def long_functions(source):
    return [
        f"{node.name}: {length} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
    ]


# The checks themselves, on modules that break the rules.
@pytest.mark.parametrize(
    ("source", "place", "found"),
    [
        pytest.param("", "crop.py", [], id="nothing"),
        pytest.param("import ray", "crop.py", ["ray"], id="plain"),
        pytest.param("import ray.data as rd", "crop.py", ["ray"], id="submodule"),
        pytest.param("from ray import data", "train/loop.py", ["ray"], id="from"),
        pytest.param("def f():\n    import torch", "records.py", ["torch"], id="in-a-function"),
        pytest.param("import rayon, torches", "records.py", [], id="only-begins-alike"),
        pytest.param("import ray, torch", "on_ray/train_context.py", [], id="allowed"),
        pytest.param("import torch", "on_ray/annotate.py", ["torch"], id="one-file-of-a-room"),
        pytest.param("import retinaface", "detect/source.py", ["retinaface"], id="nowhere"),
    ],
)
def test_a_stray_import_is_seen(source, place, found):
    assert strays(source, place) == found


@pytest.mark.parametrize(
    ("source", "place", "found"),
    [
        pytest.param("", "crop.py", [], id="nothing"),
        pytest.param("from fattr import boxes", "detect/detector.py", [], id="downwards"),
        pytest.param("from fattr import crop", "detect/detector.py", ["crop"], id="neighbour"),
        pytest.param(
            "from fattr.detect.detector import X", "crop.py", ["detect"], id="neighbour-inside"
        ),
        pytest.param("import fattr.detect.codec", "detect/detector.py", [], id="own-room"),
        pytest.param("from fattr import build", "bundle.py", ["build"], id="upwards"),
        pytest.param("from fattr import __version__", "records.py", [], id="no-module"),
    ],
)
def test_an_upward_import_is_seen(source, place, found):
    assert upward(source, place) == found


def test_a_read_of_the_environment_and_a_long_function_are_seen():
    assert environment_uses("import os\nx = os.environ['A']\ny = os.getenv('B')") == [2, 3]
    assert environment_uses("from os import environ") == [1]
    body = "    pass\n" * MAX_FUNCTION_LINES
    assert long_functions("def f():\n" + body) == ["f: 61 lines"]
    assert long_functions("def f():\n" + body.removesuffix("    pass\n")) == []


def test_every_module_has_a_place():
    names = {place_of(path).partition("/")[0].removesuffix(".py") for path in MODULES}
    assert sorted(names - {"__init__"} - RANK.keys()) == []


def test_packages_stay_in_their_rooms():
    found = {place_of(path): strays(path.read_text(), place_of(path)) for path in MODULES}
    assert {place: packages for place, packages in found.items() if packages} == {}


def test_imports_point_downwards():
    found = {
        place_of(path): upward(path.read_text(), place_of(path))
        for path in MODULES
        if place_of(path) != "__init__.py"
    }
    assert {place: others for place, others in found.items() if others} == {}


def test_settings_stop_at_the_assembly():
    users = [
        place_of(path)
        for path in MODULES
        if "config" in own_imports(path.read_text())
        and not place_of(path).startswith("config/")
        and RANK.get(place_of(path).partition("/")[0].removesuffix(".py"), 99) < CONFIG_FROM
    ]
    assert users == []


def test_no_relative_import():
    relative = {
        place_of(path): names
        for path in MODULES
        if (names := [name for name in imported(path.read_text()) if name.startswith(".")])
    }
    assert relative == {}


def test_the_environment_is_read_in_few_places():
    readers = [place_of(path) for path in MODULES if environment_uses(path.read_text())]
    assert [place for place in readers if place not in ENVIRONMENT_READERS] == []


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda p: p.name)
def test_a_job_is_only_a_call(path):
    assert set(imported(path.read_text())) <= {"sys", "fattr.cli", "fattr.cli.run_job"}


def test_functions_are_short():
    found = {place_of(path): long_functions(path.read_text()) for path in MODULES}
    assert {place: functions for place, functions in found.items() if functions} == {}


def test_files_are_short():
    lengths = {place_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {place: n for place, n in lengths.items() if n > MAX_FILE_LINES} == {}


IMPORT_WITHOUT = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"refused: {name}")

BLOCKED, names = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
failed = {}
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as err:
        failed[name] = str(err)
print(json.dumps(failed))
"""


def failed_imports(names, *, blocked, cwd):
    """Which modules a fresh interpreter elsewhere cannot import with some packages refused."""
    argument = json.dumps([blocked, names])
    command = [sys.executable, "-c", IMPORT_WITHOUT, argument]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_cpu_worker_needs_neither_torch_nor_ray(tmp_path):
    names = [
        name
        for name in sorted(MODULE_NAMES)
        if not NEED_TORCH.fullmatch(name) and not NEED_RAY.fullmatch(name)
    ]
    assert {"fattr", "fattr.detect.ncnn_backend", "fattr.classify.classifier"} <= set(names)
    blocked = ["ray", "torch", "torchvision"]
    assert failed_imports(names, blocked=blocked, cwd=tmp_path) == {}


def test_networks_and_training_need_no_ray(tmp_path):
    names = sorted(name for name in MODULE_NAMES if NEED_TORCH.fullmatch(name))
    assert names
    assert failed_imports(names, blocked=["ray"], cwd=tmp_path) == {}


def test_a_refused_import_is_noticed(tmp_path):
    failed = failed_imports(["json", "fattr.classify.network"], blocked=["torch"], cwd=tmp_path)
    assert list(failed) == ["fattr.classify.network"]


def test_versions_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fattr.__version__


def test_the_changelog_begins_with_this_version():
    changelog = ROOT / "CHANGELOG.md"
    if not changelog.is_file():
        pytest.skip("no CHANGELOG.md yet")
    newest = re.search(r"^## \D*(\d+\.\d+\.\d+)", changelog.read_text(), re.MULTILINE)
    assert newest
    assert newest[1] == fattr.__version__
