"""`python -m llmtune_local.worker RUN_DIR [--resume]`: train one run."""

from llmtune_local.worker.main import main

if __name__ == "__main__":
    raise SystemExit(main())
