"""What each backend would do with a job, found out without sending anything."""
