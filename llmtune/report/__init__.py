"""The report of a run, and how it is shown: terminal, Markdown, JSON, HTML, pandas."""
