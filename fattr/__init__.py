"""Label the faces in millions of photographs: images in, Parquet tables out."""

__version__ = "0.1.0"
