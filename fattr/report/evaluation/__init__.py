"""The report of an evaluation: one page for people, in HTML and in Markdown."""
