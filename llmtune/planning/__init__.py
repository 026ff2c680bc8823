"""What each backend would do with a job, computed without sending anything."""
