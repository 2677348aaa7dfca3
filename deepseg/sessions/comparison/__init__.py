"""What sessions left in their folders."""
