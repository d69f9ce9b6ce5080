"""``jobs/annotate.py``: photographs in, two Parquet tables out, run after run.

A run is listed, annotated, published and finished. Each step leaves word in ``run.json``, and the
same command goes on behind the last one that did.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any

from fattr import storage, tables
from fattr.bottleneck import Crew
from fattr.build import (
    AnnotatePlan,
    build_annotate,
    cpu_count,
    images_per_detection,
    plan_annotate,
    settings_id,
    settings_of,
)
from fattr.commands.engine import engine_for, fit_to_cluster
from fattr.commands.exit_codes import EXIT_DONE, EXIT_LIMIT, EXIT_UNFINISHED, EXIT_USAGE
from fattr.commands.outcome import (
    failure,
    failures_told,
    problem_at,
    say_done,
    tell,
)
from fattr.commands.profile import Profile, crew_here, crew_on_ray
from fattr.commands.work import Work, key_id, list_work, read_key, read_options
from fattr.config import AnnotateConfig, RetryConfig
from fattr.errors import FattrError, RunError, UsageError
from fattr.local_engine import annotate_locally
from fattr.notify import check_notify
from fattr.progress import AnnotateBar, ListingBar
from fattr.published import catalog
from fattr.published.publish import publish
from fattr.published.suspects import GOT_THROUGH, find_bug, raised_in
from fattr.records import Status
from fattr.runs import manifest
from fattr.runs.audit import who, write_audit
from fattr.runs.lease import Lease, hold_lease
from fattr.runs.manifest import UriNames
from fattr.runs.record import RunRecord, versions
from fattr.runs.run import SUCCESS, Run
from fattr.runs.take_up import Past, check_settings, read_past, take_up
from fattr.sandbox import bug_found
from fattr.stages import Fetch

log = logging.getLogger(__name__)

SOURCE = {"images", "include", "exclude"}
PRIVATE = {*SOURCE, "notify_url", "notify_command", "discard_unfinished", "dry_run", "profile"}


@dataclass(frozen=True, slots=True)
class Job:
    """A request with all that it names found and verified."""

    plan: AnnotatePlan
    work: Work
    output: str  # canonical URI

    @property
    def config(self) -> AnnotateConfig:
        """The flags."""
        return self.plan.config

    @property
    def redoes_poison(self) -> bool:
        """Whether images that may have raised before are asked for: that they do is no bug."""
        return Status.POISON in (self.work.only or self.config.retry_statuses)


def annotate(config: AnnotateConfig) -> int:
    """Run the job; 0 when both tables are published, 1 when too many images were bad.

    Raises:
        UsageError: the request is wrong; nothing was written.
        RunError: the run could not finish; the same command goes on with it.
    """
    job = plan_job(config)
    if config.dry_run:
        from fattr.commands.dry_run import dry_run

        past, settings = read_past(job.output), settings_of(job.plan)
        check_settings(past, settings_id(settings), settings)
        for run in past.unfinished:
            log.info("run %s is unfinished: its command goes on with it first", run.run_id)
        return dry_run(job.plan, job.work, past)
    return carry_out(job)


def retry(config: RetryConfig) -> int:
    """Do those images of an output again that ended with some statuses; codes as ``annotate``."""
    output = storage.canonical_uri(config.output)
    told = read_past(output).told()
    if told is None:
        raise UsageError(f"{output} holds no run: expected an output of fattr annotate")
    saved = told[1]["flags"]
    if "images" not in saved:
        raise UsageError(
            f"{output} holds hashed URIs: give fattr annotate its flags and --retry {config.status}"
        )
    flags: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    flags |= {"output": output} | ({"engine": config.engine} if config.engine else {})
    return carry_out(plan_job(AnnotateConfig(**flags), only=config.statuses))


def plan_job(config: AnnotateConfig, only: tuple[str, ...] = ()) -> Job:
    """Find and verify all that a request names.

    Raises:
        UsageError: something does not exist, is damaged, or cannot be written.
    """
    check_notify(url=config.notify_url, command=config.notify_command)
    key = read_key(config.hash_uris) if config.hash_uris else None
    plan = plan_annotate(config, uri_key_id=key_id(key) if key else None)
    output = storage.canonical_uri(config.output)
    if not only:
        check_places(config, output)
    if not config.dry_run:
        storage.check_writable(output)
    return Job(plan, Work(config, UriNames(key), only), output)


def check_places(config: AnnotateConfig, output: str) -> None:
    """Refuse an output inside the images or the other way round.

    Raises:
        UsageError: saying which.
    """
    images = storage.canonical_uri(config.images)
    if storage.is_within(output, images) or storage.is_within(images, output):
        raise UsageError(f"--output {output} and --images {images} overlap: keep them apart")


def carry_out(job: Job) -> int:
    """Do the run that the output asks for: the one that did not finish, or a new one."""
    say_licences(job.plan)
    profile = Profile() if job.config.profile else None
    past, description = read_past(job.output), describe(job)
    check_settings(past, description["settings_id"], description["settings"])
    entries = iter(()) if job.work.only else job.work.entries()
    with hold_lease(job.output) as lease:
        past = read_past(job.output)  # again: another run may have ended since
        check_settings(past, description["settings_id"], description["settings"])
        run, record = take_up(
            job.output,
            past,
            description,
            now=datetime.now(UTC),
            discard_unfinished=job.config.discard_unfinished,
        )
        lease.name_run(run.run_id)
        if not storage.conditional_writes(job.output):
            log.warning("the store ignores conditional writes: start one run at a time")
        if "increment" not in record.content:
            list_images(job, run, record, past, entries, lease.check)
        with failures_told(job.config, run, record, lease.check):
            annotate_images(job, run, record, lease.check, profile)
            publish_tables(job, run, record, lease)
            code = finish(job, run, record, lease)
    tell(job.config, record)
    return code


def say_licences(plan: AnnotatePlan) -> None:
    """One line for each bundle that is not free to use."""
    for bundle, _ in plan.models:
        if bundle.spec.research_only:
            log.warning("model %s is for research only: %s", bundle.spec.name, bundle.spec.licence)


def describe(job: Job) -> dict[str, Any]:
    """What ``run.json`` says before the run."""
    plan, settings = job.plan, settings_of(job.plan)
    kept = {field.name for field in fields(job.config)} - PRIVATE
    if not job.config.hash_uris:
        kept |= SOURCE
    return {
        "job": "annotate",
        "who": who(),
        "request": job.work.request,
        "flags": {name: value for name, value in asdict(job.config).items() if name in kept},
        "engine": job.config.engine,
        "device": plan.device,
        "purpose": job.config.purpose,
        "settings_id": settings_id(settings),
        "settings": settings,
        "detector": plan.source.name,
        "models": [
            {
                "name": bundle.spec.name,
                "model_id": bundle.model_id,
                "licence": bundle.spec.licence,
                "research_only": bundle.spec.research_only,
                "attributes": [a.name for a in attributes],
                "not_written": sorted(
                    {a.name for a in bundle.spec.attributes} - {a.name for a in attributes}
                ),
            }
            for bundle, attributes in plan.models
        ],
        "versions": versions(),
    }


def list_images(
    job: Job,
    run: Run,
    record: RunRecord,
    past: Past,
    entries: Iterator[storage.FileEntry],
    check: Callable[[], None],
) -> None:
    """Write the run's manifest; a run that cannot be listed leaves nothing behind.

    How that ended is told to whom it may concern, too.
    """
    try:
        with ListingBar() as bar:

            def on_listed(count: int) -> None:
                check()
                bar.advance(count)

            found = list_work(job.work, run, past, entries, on_listed, check)
        check()
        record.note("listed", increment=asdict(found), exit_code=None)
    except Exception as err:
        code = EXIT_USAGE if isinstance(err, UsageError) else EXIT_UNFINISHED
        record.content |= failure(job.config, code, err, run)
        tell(job.config, record)
        check()  # where the lease is lost, the folder is another's
        storage.delete_tree(run.folder)
        if isinstance(err, OSError):
            raise RunError(problem_at(err, run.output)) from err
        raise
    log.info("run %s: %s", run.run_id, found.describe())


def annotate_images(
    job: Job, run: Run, record: RunRecord, check: Callable[[], None], profile: Profile | None
) -> None:
    """Manifest to staged rows, on show; what an earlier attempt on Ray made is kept."""
    num_images = record.content["increment"]["num_images"]
    staged_by = record.content.get("staged_by")
    if record.content.get("published") or not num_images:
        record.content["engine"] = staged_by or "none"
        return
    check()
    is_risky = staged_by is not None or job.redoes_poison or job.config.all
    engine = engine_for(job.config, num_images, is_risky=is_risky)
    if staged_by != "ray" or engine != "ray":
        storage.delete_tree(run.staging)
        storage.delete_tree(run.checkpoint)
    record.note("annotating", staged_by=engine, engine=engine)
    annotate_by = annotate_here if engine == "local" else annotate_in_session
    crew = annotate_by(job, run, record, num_images, check, profile)
    if not job.redoes_poison and (bug := find_bug(run.staging)):
        raise bug_found(*bug)
    if profile:
        record.content["bottleneck"] = profile.finish(run, crew)
    record.note("annotated")


def annotate_here(
    job: Job,
    run: Run,
    record: RunRecord,
    num_images: int,
    check: Callable[[], None],
    profile: Profile | None,
) -> Crew:
    """The engine of this process."""
    fetch, stage = Fetch(options=read_options(job.config)), build_annotate(job.plan)
    with watched(record, num_images, 0, check, profile) as on_counts:
        annotate_locally(
            run.manifest,
            run.staging,
            stage,
            tables.staged_schema(job.plan.attributes),
            fetch=profile.traced(fetch, stage) if profile else fetch,
            num_threads=cpu_count(),
            is_cleared=job.redoes_poison,
            on_counts=on_counts,
        )
    return crew_here(job.plan, fetch)


def annotate_in_session(
    job: Job,
    run: Run,
    record: RunRecord,
    num_images: int,
    check: Callable[[], None],
    profile: Profile | None,
) -> Crew:
    """The Ray engine, sized for the cluster."""
    from fattr.on_ray.annotate import (
        MALLOC,
        PROCESSES,
        Blame,
        Listener,
        annotate_on_ray,
        count_checkpointed,
    )
    from fattr.on_ray.checkpoint import forget, recorded_parts, strike_unsound
    from fattr.on_ray.session import ray_session
    from fattr.sizing import describe as describe_sizing

    config, total_bytes = job.config, record.content["increment"]["total_bytes"]
    with ray_session(MALLOC, prestart=PROCESSES if job.plan.device == "cpu" else 1):
        plan, sizing = fit_to_cluster(job.plan, num_images=num_images, total_bytes=total_bytes)
        record.content["device"] = plan.device
        for line in describe_sizing(sizing, batch_size=images_per_detection(plan)):
            log.info("%s", line)
        if num_unsound := strike_unsound(run):
            log.info("%d files that a kill left undecided are made again", num_unsound)
        suspects = None if job.redoes_poison else raised_in(recorded_parts(run))
        if suspects:  # the code may have been mended since
            log.info("%d files of images that may have met a bug are made again", len(suspects))
            forget(run, suspects)
        done = count_checkpointed(run)
        with watched(record, num_images, done, check, profile) as on_counts:
            annotate_on_ray(
                plan,
                run,
                num_images=num_images,
                sizing=sizing,
                read_options=read_options(config),
                blame=Blame(config.image_timeout, is_code_cleared=suspects is None),
                listener=Listener(on_counts, profile.add_spans if profile else None),
                check=check,
            )
    return crew_on_ray(plan, sizing)


@contextmanager
def watched(
    record: RunRecord,
    num_images: int,
    num_done: int,
    check: Callable[[], None],
    profile: Profile | None,
) -> Iterator[Callable[[Counter[str]], None]]:
    """A bar on show and samples for the timeline, fed by counts of what is done."""
    with AnnotateBar(num_images, initial=num_done) as bar:

        def on_counts(counts: Counter[str]) -> None:
            check()
            bar.add(counts)
            if profile:
                profile.add_counts(counts)
            record.timeline.sample(record.seconds, bar.done)

        yield on_counts


def publish_tables(job: Job, run: Run, record: RunRecord, lease: Lease) -> None:
    """Write both tables of the run from its staged rows."""
    if record.content.get("published"):
        return
    lease.check()
    plan = job.plan
    published = publish(
        run,
        attributes=plan.attributes,
        model_id="+".join(bundle.model_id for bundle, _ in plan.models),
        metadata={
            "fattr.run_id": run.run_id,
            "fattr.settings_id": record.content["settings_id"],
            "fattr.models": json.dumps(record.content["models"]),
            "fattr.purpose": record.content["purpose"],
        },
        rows_per_file=job.config.rows_per_file,
        on_rows=lambda _: lease.check(),
    )
    totals = published.totals
    record.note(
        "published",
        published=True,
        num_images=totals.num_images,
        num_faces=totals.num_faces,
        by_status=dict(totals.by_status),
        stage_seconds={name: round(s, 3) for name, s in totals.stage_seconds.items()},
    )


def finish(job: Job, run: Run, record: RunRecord, lease: Lease) -> int:
    """Clear up, audit, and last of all write ``_SUCCESS``; the exit code."""
    content = record.content
    lease.check()
    storage.delete_tree(run.staging)
    storage.delete_tree(run.checkpoint)
    if job.config.hash_uris:
        manifest.hide_uris(run.manifest)
    num_images = content["num_images"]
    num_bad = num_images - sum(content["by_status"].get(status, 0) for status in GOT_THROUGH)
    is_over = num_bad > job.config.max_bad_fraction * num_images
    code = EXIT_LIMIT if is_over else EXIT_DONE
    record.note("finished", exit_code=code, error=None, images_per_second=rate(record))
    write_audit(run.output, run.run_id, run.started, audit_of(record))
    lease.check()
    success = {"num_images": num_images, "num_faces": content["num_faces"]}
    storage.write_bytes(run.file(SUCCESS), json.dumps(success).encode() + b"\n")
    try:
        catalog.write_views(run.output, read_past(run.output).finished)
    except (FattrError, OSError):  # the run is finished all the same
        log.warning("views.sql could not be written: the next run writes it")
    say_done(run, record)
    if is_over:
        log.warning(
            "%d of %d images are bad, more than --max-bad-fraction %g allows",
            num_bad,
            num_images,
            job.config.max_bad_fraction,
        )
    return code


def rate(record: RunRecord) -> float:
    """Images a second, over the whole run."""
    num_images: int = record.content["num_images"]
    return round(num_images / max(record.seconds, 1e-9), 2)


def audit_of(record: RunRecord) -> dict[str, Any]:
    """What is kept for ever of who did what to whom."""
    asked = ("job", "run_id", "who", "started", "request", "purpose")
    settings = ("settings_id", "settings", "models")
    counts = ("increment", "num_images", "num_faces", "by_status", "exit_code")
    said = {name: record.content[name] for name in (*asked, *settings, *counts)}
    return said | {"sensitive": record.content["settings"]["sensitive"]}
