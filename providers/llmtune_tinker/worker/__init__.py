"""The process that trains one run at Tinker."""
