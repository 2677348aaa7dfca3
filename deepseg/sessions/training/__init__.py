"""What a training session does from epoch to epoch."""
