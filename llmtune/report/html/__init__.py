"""Reports as web pages: one file each, with everything in it, that asks nobody for anything."""
