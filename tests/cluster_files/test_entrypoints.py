"""Command lines in the documentation are ones that the jobs take."""

import pytest
from cluster_files.entrypoints import ROOT, documented, entrypoint_problems, parse_line

PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINES = [(page.relative_to(ROOT).as_posix(), line) for page in PAGES for line in documented(page)]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_documented_line_is_taken(page, line):
    assert entrypoint_problems(line) == []


def test_lines_are_found_in_the_pages_that_have_some():
    found = [page for page, _ in LINES]
    assert found.count("cluster/README.md") >= 2
    assert {"README.md", "docs/nightly.md", "docs/training.md"} <= set(found)


def test_a_line_becomes_settings():
    job, config = parse_line(
        "ray job submit --working-dir . -- python jobs/annotate.py --images s3://b/p --output /t"
    )
    assert (job, config.images, config.output) == ("annotate", "s3://b/p", "/t")
    job, config = parse_line("fattr retry /t --status timeout  # again")
    assert (job, config.output, config.statuses) == ("retry", "/t", ("timeout",))


@pytest.mark.parametrize(
    "line",
    [
        "ray job submit --workdir . -- python jobs/annotate.py --images /p --output /t",
        "ray job submit --working-dir .",
        "python jobs/annotate.py --images /p --output /t --presett cpu",
        "python jobs/annotate.py --images /p --output /t --preset tpu",
        "python jobs/annotate.py --images /p",
        "python jobs/train.py --preset celeba --data celeba:/d --output /o",
        "python jobs/train.py --preset celeba40 --data celeba:/d --output /o --workers 8:2",
        "fattr annotate --images /p --output /t --limit 0",
        "fattr models --all",
        "fattr",
        "",
    ],
)
def test_a_wrong_line_is_refused(line):
    assert entrypoint_problems(line) != []
