"""`python -m llmtune` is the `llmtune` command."""

from llmtune.cli import main

main()
