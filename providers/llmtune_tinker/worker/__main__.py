"""`python -m llmtune_tinker.worker RUN_DIR [--resume]`: train one run."""

from llmtune_tinker.worker.main import main

if __name__ == "__main__":
    raise SystemExit(main())
