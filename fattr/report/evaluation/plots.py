"""The charts of an evaluation as SVG to be put into a page: figures, never a face.

Drawn as markup, so that the page's style colours them (dark pages, print), text stays text, and
forty of them are small. Every chart says in words what it shows (``aria-label``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fattr.report.evaluation import words as words
from fattr.report.html import Html, join, tag

BAR_W, BAR_H = 74, 12
SERIES_STYLES = ("s0", "s1", "s2", "s3")  # colour, dash and marker, in page.css


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lie in a picture: ranges of x and y, size and margins in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float = 200
    height: float = 170
    left: float = 34
    right: float = 18
    top: float = 8
    bottom: float = 32

    def px(self, x: float) -> float:
        """Horizontal place of a value."""
        span = (self.x[1] - self.x[0]) or 1
        return self.left + (x - self.x[0]) / span * (self.width - self.left - self.right)

    def py(self, y: float) -> float:
        """Vertical place of a value, up being more."""
        span = (self.y[1] - self.y[0]) or 1
        free = self.height - self.top - self.bottom
        return self.height - self.bottom - (y - self.y[0]) / span * free

    def points(self, xy: Sequence[tuple[float, float]]) -> str:
        """Places of a polyline."""
        return " ".join(f"{self.px(x):.1f},{self.py(y):.1f}" for x, y in xy)


def _svg(frame: Frame, label: str, *children: Html) -> Html:
    box = f"0 0 {frame.width:g} {frame.height:g}"
    return tag("svg", *children, class_="chart", viewBox=box, role="img", aria_label=label)


def _text(x: float, y: float, text: str, anchor: str = "middle") -> Html:
    return tag("text", text, x=round(x, 1), y=round(y, 1), text_anchor=anchor)


def _axes(
    frame: Frame,
    x_ticks: Mapping[float, str],
    y_ticks: Mapping[float, str],
    x_label: str,
) -> Iterator[Html]:
    """Grid lines at the ticks of y, ticks as words, and what x is."""
    left, right = frame.left, frame.width - frame.right
    for value, text in y_ticks.items():
        y = frame.py(value)
        yield tag("path", d=f"M{left:g} {y:.1f}H{right:g}", class_="grid")
        yield _text(left - 5, y + 3.5, text, "end")
    for value, text in x_ticks.items():
        is_first = value == frame.x[0] and len(text) > 2  # else it runs into the labels of y
        anchor = "start" if is_first else "middle"
        yield _text(frame.px(value), frame.height - frame.bottom + 13, text, anchor)
    yield _text((left + right) / 2, frame.height - 4, x_label)


def _marks(frame: Frame, xy: Sequence[tuple[float, float]], radius: float = 2.5) -> Iterator[Html]:
    for x, y in xy:
        yield tag("circle", cx=round(frame.px(x), 1), cy=round(frame.py(y), 1), r=radius)


# Charts


def interval_bar(
    value: float | None, ends: Sequence[float] | None, *, limits: tuple[float, float] = (0.0, 1.0)
) -> Html:
    """A stroke at a share and a bar over its interval, on a line; nothing without both.

    It repeats figures that stand beside it, so those who have the page read out are spared it.
    """
    if value is None or ends is None:
        return Html("")
    frame = Frame(limits, (0, 1), BAR_W, BAR_H, 2, 2, 0, 0)
    at, low, high = (frame.px(min(max(x, limits[0]), limits[1])) for x in (value, *ends))
    return tag(
        "svg",
        tag("path", d=f"M0 6.5H{BAR_W}", class_="grid"),
        tag("path", d=f"M{low:.1f} 6.5H{max(high, low + 1):.1f}", class_="ci"),
        tag("path", d=f"M{at:.1f} 2V11", class_="at"),
        class_="bar",
        width=BAR_W,
        height=BAR_H,
        aria_hidden="true",
    )


def reliability_plot(bins: Sequence[Mapping[str, float]], name: str) -> Html:
    """The share that was right against the mean probability of each bin, and where they agree."""
    frame = Frame((0, 1), (0, 1))
    xy = [(one["prob"], one["frac"]) for one in bins]
    said = "; ".join(f"{x:.2f} said, {y:.2f} right" for x, y in xy)
    ticks = {0.0: "0", 0.5: "0.5", 1.0: "1"}
    return _svg(
        frame,
        f"Reliability of {name}: {said}",
        *_axes(frame, ticks, ticks, "probability said"),
        tag("polyline", points=frame.points([(0, 0), (1, 1)]), class_="ideal"),
        *(
            tag(
                "path",
                d=f"M{frame.px(x):.1f} {frame.py(x):.1f}V{frame.py(y):.1f}",
                class_="miss",
            )
            for x, y in xy
        ),
        tag("polyline", points=frame.points(xy), class_="s0"),
        tag("g", *_marks(frame, xy), class_="s0"),
    )


def coverage_plot(
    curve: Sequence[Mapping[str, float]], name: str, chosen: Mapping[str, Any] | None = None
) -> Html:
    """Accuracy of the labels kept against the share of them; a ring where the model's bands are."""
    xy = sorted((p["coverage"], p["accuracy"]) for p in curve if p["accuracy"] is not None)
    if not xy:
        return Html("")
    least = xy[0][0]
    frame = Frame((least, 1) if least < 1 else (0, 1), _limits([y for _, y in xy]))
    ring = None
    if chosen and chosen.get("coverage") is not None and chosen.get("accuracy") is not None:
        x = frame.px(max(chosen["coverage"], frame.x[0]))
        y = frame.py(max(chosen["accuracy"], frame.y[0]))
        ring = tag("circle", cx=round(x, 1), cy=round(y, 1), r=4.5, class_="ring")
    said = "; ".join(f"{y:.3f} at {x:.0%}" for x, y in reversed(xy))
    x_ticks = {x: words.percent(x, 0) for x in (frame.x[0], sum(frame.x) / 2, 1.0)}
    return _svg(
        frame,
        f"Accuracy of {name} when the surest labels are kept: {said}",
        *_axes(frame, x_ticks, _ticks(frame.y), "labels kept, surest first"),
        tag("polyline", points=frame.points(xy), class_="s0"),
        tag("g", ring),
    )


def curves_plot(
    steps: Sequence[float], series: Mapping[str, Sequence[float | None]], name: str, unit: str
) -> Html:
    """Shares against steps at equal distances, a line a series; None leaves a gap."""
    places = {float(i): f"{step:g}" for i, step in enumerate(steps)}
    frame = Frame((0, max(len(steps) - 1, 1)), (0, 1), width=300)
    parts = []
    for style, values in zip(SERIES_STYLES, series.values(), strict=False):
        for run in _runs(list(zip(places, values, strict=True))):
            line = tag("polyline", points=frame.points(run), class_=style)
            parts.append(join(line, tag("g", *_marks(frame, run), class_=style)))
    said = "; ".join(f"{words.title(what)} {_ends(values)}" for what, values in series.items())
    y_ticks = {0.0: "0", 0.5: "0.5", 1.0: "1"}
    return _svg(
        frame,
        f"{name} from {steps[0]:g} to {steps[-1]:g} {unit}: {said}",
        *_axes(frame, places, y_ticks, unit),
        *parts,
    )


def legend(names: Sequence[str]) -> Html:
    """What each line of ``curves_plot`` is."""
    items = [
        tag(
            "li",
            tag(
                "svg",
                tag("path", d="M1 6H27", class_=style),
                tag("circle", cx=14, cy=6, r=2.5, class_=style),
                viewBox="0 0 28 12",
                width=28,
                height=12,
                aria_hidden="true",
            ),
            f" {name}",
        )
        for style, name in zip(SERIES_STYLES, names, strict=False)
    ]
    return tag("ul", *items, class_="legend")


def _runs(xy: Sequence[tuple[float, float | None]]) -> Iterator[list[tuple[float, float]]]:
    """Stretches of a line, cut where there is no y."""
    run: list[tuple[float, float]] = []
    for x, y in xy:
        if y is not None:
            run.append((x, y))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _ends(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"from {known[0]:.3f} to {known[-1]:.3f}" if known else words.NOT_ESTIMABLE


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """A range up to 1 that begins at the tenth below the least value."""
    return min(int(min(values) * 10) / 10, 0.9), 1.0


def _ticks(limits: tuple[float, float]) -> dict[float, str]:
    """Both ends and the middle, as many decimals as they need."""
    low, high = limits
    return {value: f"{value:.3g}" for value in (low, (low + high) / 2, high)}
