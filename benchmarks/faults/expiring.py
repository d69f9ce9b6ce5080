"""A run whose credentials expire half-way, and its rerun with new ones.

    python -m benchmarks.faults.expiring --images 400

The S3 server answers ``ExpiredToken`` from half of a calm run's requests on, until another access
key is used. The run must end with 3 and one line that says so; the rerun must complete it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import tyro

from benchmarks.faults import annotating
from benchmarks.faults.annotating import unless
from benchmarks.faults.pictures import write_photographs
from benchmarks.faults.rclone import s3_environment, s3_of_folder
from benchmarks.faults.s3_proxy import Plan, fault_proxy
from benchmarks.faults.verdict import Verdict, conclude, room


@dataclass(frozen=True, slots=True)
class Settings:
    """See the module."""

    images: int = 400
    """How many photographs."""
    share: float = 0.5
    """Share of a calm run's requests after which the credentials expire."""
    engine: str = "ray"
    seed: int = 0
    report: str = ""
    """File for the verdict as JSON."""
    folder: str = ""
    """Where to work; empty: a temporary folder."""


def drill(settings: Settings, folder: Path) -> Verdict:
    """Run it in ``folder``."""
    verdict = Verdict("expiring")
    buckets = folder / "buckets"
    write_photographs(buckets / "photos", settings.images, settings.seed)
    for bucket in ("calm", "tables"):
        (buckets / bucket).mkdir(parents=True)
    commands = {
        bucket: annotating.command("s3://photos", f"s3://{bucket}/night", engine=settings.engine)
        for bucket in ("calm", "tables")
    }
    with s3_of_folder(buckets) as url:
        with fault_proxy(url, Plan()) as calm:
            ended = annotating.run(commands["calm"], folder / "calm.log", s3_environment(calm.url))
            verdict.check("a calm run ends with 0", *unless(0, ended))
        limit = max(1, round(settings.share * calm.counts["requests"]))
        with fault_proxy(url, Plan(expires_after=limit)) as proxy:
            _expire_and_renew(verdict, commands["tables"], proxy.url, folder)
    verdict.check(
        "tables equal a calm run's",
        *annotating.differences(buckets / "tables" / "night", buckets / "calm" / "night"),
    )
    verdict.figures |= {"images": settings.images, "expired_after": limit, **dict(proxy.counts)}
    return verdict


def _expire_and_renew(verdict: Verdict, argv: list[str], url: str, folder: Path) -> None:
    old, new = (s3_environment(url, key) for key in ("drill-key-one", "drill-key-two"))
    expired = annotating.run(argv, folder / "expired.log", old)
    verdict.check("the run ends with 3", *unless(3, expired))
    verdict.check("its line says that the credentials expired", *_unless_said(expired, url))
    renewed = annotating.run_after_lease(argv, folder / "renewed.log", new)
    verdict.check("with new credentials the rerun ends with 0", *unless(0, renewed))
    said = annotating.verify("s3://tables/night", folder / "verify.log", new)
    verdict.check("fattr verify is content", *unless(0, said))
    verdict.figures["seconds"] = round(expired.seconds + renewed.seconds, 1)


def _unless_said(ended: annotating.Ended, url: str) -> list[str]:
    is_said = "expired" in ended.last_line and "renew" in ended.last_line
    has_trace = "Traceback" in ended.said
    secrets = ("drill-key", "drill-secret", urlsplit(url).netloc)
    has_secret = any(word in ended.said for word in secrets)
    return [
        "" if is_said else f"it is: {ended.last_line}",
        "a traceback was shown" if has_trace else "",
        "a credential or an endpoint was shown" if has_secret else "",
    ]


def main(settings: Settings) -> int:
    """The whole drill."""
    with room(settings.folder) as folder:
        return conclude(drill(settings, folder), settings.report)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings, description=__doc__)))
