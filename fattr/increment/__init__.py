"""What of a listing is still to do."""
