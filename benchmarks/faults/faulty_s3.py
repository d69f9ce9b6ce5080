"""A run whose images and output lie on an S3 server that fails a share of all requests.

    python -m benchmarks.faults.faulty_s3 --images 2000 --share 0.05

``rclone serve s3`` (which checks signatures) stands behind a proxy that answers 503, does not
answer, resets connections and breaks answers off. The tables must be those of a calm run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.pictures import write_photographs
from benchmarks.faults.rclone import s3_environment, s3_of_folder
from benchmarks.faults.s3_proxy import Fault, Plan, Proxy, fault_proxy
from benchmarks.faults.verdict import Verdict, conclude, room


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 2000
    """How many photographs."""
    share: float = 0.05
    """Share of the requests that meet a fault."""
    hang_s: float = 40.0
    """How long a request that hangs is left without an answer."""
    engine: str = "ray"
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("faulty_s3")
    buckets = folder / "buckets"
    write_photographs(buckets / "photos", settings.images, settings.seed)
    for bucket in ("calm", "tables"):
        (buckets / bucket).mkdir(parents=True)
    plan = Plan(share=settings.share, seed=settings.seed, hang_s=settings.hang_s)
    with s3_of_folder(buckets) as url:
        with fault_proxy(url, Plan()) as calm:
            _annotate(verdict, settings, folder, "calm", calm)
        with fault_proxy(url, plan) as faulty:
            _annotate(verdict, settings, folder, "tables", faulty)
            log = folder / "verify.log"
            said = annotating.verify("s3://tables/night", log, s3_environment(faulty.url))
    verdict.check("fattr verify is content", *unless(0, said))
    verdict.check(
        "tables equal a calm run's",
        *annotating.differences(buckets / "tables" / "night", buckets / "calm" / "night"),
    )
    missing = [fault for fault in Fault if not faulty.counts[str(fault)]]
    verdict.check("every fault happened", *(f"no {fault}" for fault in missing))
    verdict.figures |= {"images": settings.images, **dict(faulty.counts)}
    return verdict


def _annotate(
    verdict: Verdict, settings: Settings, folder: Path, bucket: str, proxy: Proxy
) -> None:
    output = f"s3://{bucket}/night"
    argv = annotating.command("s3://photos", output, engine=settings.engine)
    ended = annotating.run(argv, folder / f"{bucket}.log", s3_environment(proxy.url))
    verdict.check(f"the run into {bucket} ends with 0", *unless(0, ended))
    verdict.figures[f"seconds_{bucket}"] = round(ended.seconds, 1)


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
