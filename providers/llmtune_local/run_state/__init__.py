"""The run folder: the files through which a worker process and its followers communicate."""
