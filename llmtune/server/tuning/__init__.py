"""`llmtune serve --tuning`: OpenAI's fine-tuning API, behind which every job is an ordinary run at any backend."""
