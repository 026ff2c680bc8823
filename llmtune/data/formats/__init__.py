"""Row formats, one file each: reading rows into `Example` and writing them."""
