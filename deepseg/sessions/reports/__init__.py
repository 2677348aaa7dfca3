"""The page ``report.html`` of a session."""
