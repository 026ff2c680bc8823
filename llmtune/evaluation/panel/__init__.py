"""The panel: questions outside the task, asked of base and tuned model, to see what else tuning has changed."""
