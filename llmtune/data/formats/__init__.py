"""Row formats, one file each: what a row looks like, read into `Example` and written from it."""
