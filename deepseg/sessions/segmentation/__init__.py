"""What a testing session does with every case."""
