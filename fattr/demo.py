"""``fattr demo``: the whole way on photographs that come with installed packages.

The people are an astronaut and a rear admiral, on public-domain photographs of NASA and the US
Navy, so the contact sheet shows their faces.
"""

from __future__ import annotations

import shlex
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, ImageOps
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table

from fattr.build import choose_models
from fattr.bundle import find
from fattr.commands.annotate import annotate
from fattr.config import DEFAULT_MODELS, AnnotateConfig
from fattr.errors import UsageError
from fattr.published.catalog import VIEWS, Tables, open_tables
from fattr.report.contact_sheet import contact_sheet, face_attributes, face_heading

SENSITIVE = ("age", "perceived_gender_presentation")
PURPOSE = "demonstration on public-domain photographs"
MARKER = ".fattr-demo"
WIDTH = 150  # of the tables where there is no terminal
HUGE_SIDE, BOMB_SIDE = 6000, 50_000
COLLAGE_PART_WH = (480, 400)

# What the query counts, where the models of the demo write it.
COUNTED = {
    "age": "round(avg(age), 1) AS mean_age",
    "smiling": "count(*) FILTER (smiling) AS smiling",
    "eyeglasses": "count(*) FILTER (eyeglasses) AS eyeglasses",
    "wearing_hat": "count(*) FILTER (wearing_hat) AS wearing_hat",
}


# Photographs


def photographs() -> dict[str, bytes]:
    """Name and bytes of every file of the demo, sound and damaged.

    Raises:
        UsageError: the packages that bring the photographs are not installed.
    """
    astronaut = _packaged("skimage", "data/astronaut.png")
    coffee = _packaged("skimage", "data/coffee.png")
    cat = _packaged("skimage", "data/chelsea.png")
    hopper = _packaged("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")
    admiral, portrait = _opened(hopper), _opened(astronaut)
    return {
        "astronaut.png": astronaut,
        "grace_hopper.jpg": hopper,
        "coffee.png": coffee,
        "cat.png": cat,
        "collage.jpg": _jpeg(collage([portrait, _opened(cat), _opened(coffee), admiral])),
        "rotated_by_exif.jpg": turned_by_exif(portrait),
        "rotated_15_degrees.jpg": _jpeg(portrait.rotate(15, Image.Resampling.BICUBIC)),
        "huge.jpg": _jpeg(portrait.resize((HUGE_SIDE, HUGE_SIDE))),
        "grey_16_bit.png": grey_16_bit(admiral),
        "cmyk.jpg": _jpeg(admiral.convert("CMYK")),
        "really_a_png.jpg": _png(admiral),
        "damaged_truncated.jpg": hopper[: len(hopper) // 2],
        "damaged_empty.jpg": b"",
        "damaged_bomb.png": bomb(BOMB_SIDE),
        "damaged_text.jpg": b"This is no photograph.\n",
    }


def _packaged(package: str, path: str) -> bytes:
    """A file inside an installed package; nothing is ever downloaded."""
    try:
        return resources.files(package).joinpath(path).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise UsageError(
            f"the demo's photographs come with {package}, which is not installed or lacks "
            f"{path}: pip install 'fattr[demo]'"
        ) from None


def _opened(data: bytes) -> Image.Image:
    return Image.open(BytesIO(data)).convert("RGB")


def _jpeg(image: Image.Image, *, exif: Image.Exif | None = None) -> bytes:
    file = BytesIO()
    image.save(file, "JPEG", quality=90, exif=exif or b"")
    return file.getvalue()


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def collage(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures two by two, each cut to the same size, mostly off its bottom."""
    width, height = COLLAGE_PART_WH
    joined = Image.new("RGB", (2 * width, height * ((len(pictures) + 1) // 2)))
    for i, picture in enumerate(pictures):
        part = ImageOps.fit(picture, COLLAGE_PART_WH, centering=(0.5, 0.05))
        joined.paste(part, (i % 2 * width, i // 2 * height))
    return joined


def turned_by_exif(upright: Image.Image) -> bytes:
    """A JPEG stored on its side, with the EXIF orientation that sets it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return _jpeg(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)


def grey_16_bit(image: Image.Image) -> bytes:
    """A PNG of 16-bit greys."""
    grey = np.asarray(image.convert("L"), np.uint16) * np.uint16(257)
    return _png(Image.fromarray(grey))


def bomb(side: int) -> bytes:
    """A small PNG whose header promises ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


# The folder


def fresh_folder(output: Path) -> None:
    """An empty folder with the demo's mark; an earlier demo's is deleted first.

    Raises:
        UsageError: there is something that no demo made.
    """
    is_ours = (output / MARKER).is_file()
    if output.exists() and not is_ours and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} was not made by the demo: choose another folder")
    if is_ours:
        shutil.rmtree(output)
    output.mkdir(parents=True, exist_ok=True)
    (output / MARKER).write_text(
        "Made by `fattr demo`, which deletes this folder when run again.\n"
    )


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)


# The run


def demo_config(
    output: Path, *, engine: Literal["auto", "ray", "local"], model: tuple[str, ...]
) -> AnnotateConfig:
    """Settings of the demo's run; of the sensitive attributes, those that a model predicts."""
    bundles = [find(name) for name in model or DEFAULT_MODELS]
    predicted = {attribute.name for bundle in bundles for attribute in bundle.spec.attributes}
    sensitive = ",".join(name for name in SENSITIVE if name in predicted)
    return AnnotateConfig(
        images=str(output / "photographs"),
        output=str(output / "tables"),
        model=model,
        engine=engine,
        sensitive=sensitive,
        purpose=PURPOSE if sensitive else "",
    )


def command(config: AnnotateConfig) -> str:
    """The command line that makes the same run."""
    words = ["fattr", "annotate", "--images", config.images, "--output", config.output]
    words += [word for name in config.model for word in ("--model", name)]
    if config.engine != "ray":
        words += ["--engine", config.engine]
    if config.sensitive:
        words += ["--sensitive", config.sensitive, "--purpose", config.purpose]
    return shlex.join(words)


def run_demo(
    output: str, *, engine: Literal["auto", "ray", "local"] = "auto", model: tuple[str, ...] = ()
) -> int:
    """Annotate the photographs into OUTPUT/tables and show what came of it; an exit code.

    Raises:
        UsageError: OUTPUT is not the demo's, or photographs or models are not there.
        RunError: the run could not finish.
    """
    started = time.monotonic()
    if "://" in output:
        raise UsageError(f"--output {output}: the demo writes into a local folder")
    folder, files = Path(output), photographs()
    config = demo_config(folder, engine=engine, model=model)
    choose_models(config)
    fresh_folder(folder)
    _write(folder / "photographs", files)
    console = _console()
    console.print(f"[bold]{len(files)} photographs, one command[/]\n")
    console.print(f"$ {command(config)}\n", highlight=False, soft_wrap=True, markup=False)
    code = annotate(config)
    show(console, config, folder)
    console.print(f"\n{time.monotonic() - started:.0f} s in all")
    return code


# What is shown


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def show(console: Console, config: AnnotateConfig, folder: Path) -> None:
    """Print the tables, one query, and where things are; write the contact sheet."""
    tables = open_tables(config.output)
    show_images(console, tables)
    show_faces(console, tables)
    show_query(console, tables, Path(config.output, VIEWS))
    if config.purpose:
        show_purpose(console, tables)
    png = folder / "contact_sheet.png"
    contact_sheet(config.output, str(png), show_faces=True)
    console.print(f"photographs    {config.images}", f"tables         {config.output}", sep="\n")
    console.print(f"contact sheet  {png}")


def show_images(console: Console, tables: Tables) -> None:
    """Print the table ``images``."""
    rows = tables.sql(
        "SELECT parse_filename(image_uri), width || ' x ' || height, "
        "format_bytes(size_bytes), status, num_faces, reason FROM images ORDER BY image_uri"
    ).fetchall()
    titles = ("image", "pixels", "size", "status", "faces", "reason")
    console.print(_table("images: a row for every file", titles, rows))


def show_faces(console: Console, tables: Tables) -> None:
    """Print the table ``faces``, its attributes in words."""
    faces = tables.faces.order("image_uri, face_index").to_arrow_table().to_pylist()
    told = [
        (
            face["image_uri"].rpartition("/")[2],
            face["face_index"],
            f"{face['det_score']:.2f}",
            f"{face['face_px']:.0f}",
            "; ".join(
                filter(None, (face_heading(face), ", ".join(face_attributes(face, limit=3))))
            ),
        )
        for face in faces
    ]
    num_columns = len(tables.schema("faces").names)
    title = f"faces: a row for every face, {num_columns} columns, some of them in words"
    console.print(_table(title, ("image", "#", "score", "px", "most probable attributes"), told))


def query(tables: Tables) -> str:
    """SQL over the table ``faces``: what is seen in each photograph."""
    written = tables.schema("faces").names
    counted = [sql for name, sql in COUNTED.items() if name in written]
    selected = ["parse_filename(image_uri) AS photograph", "count(*) AS num_faces", *counted]
    lines = ",\n       ".join(selected)
    return f"SELECT {lines}\nFROM faces\nGROUP BY photograph\nORDER BY num_faces DESC, photograph"


def show_query(console: Console, tables: Tables, views: Path) -> None:
    """Print a query as it may be typed into DuckDB, and its result."""
    sql = query(tables)
    answer = tables.sql(sql)
    console.print("[bold]One query, to be pasted into DuckDB[/]\n")
    console.print(f".read {_quoted(views)}", highlight=False, soft_wrap=True, markup=False)
    console.print(Syntax(f"{sql};", "sql", background_color="default"))
    console.print(_table("", answer.columns, answer.fetchall()))


def _quoted(path: Path) -> str:
    """A path as the commands of DuckDB's shell take it."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def show_purpose(console: Console, tables: Tables) -> None:
    """Print the purpose of the sensitive columns as the Parquet files keep it."""
    purpose = tables.schema("faces").metadata[b"fattr.purpose"].decode()
    console.print("Why there are sensitive columns, as each Parquet file and run.json say:")
    console.print(f"[italic]{escape(purpose)}[/]\n")


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE)
    for name in columns:
        table.add_column(name)
    for row in rows:
        table.add_row(*("" if value is None else escape(str(value)) for value in row))
    return table
