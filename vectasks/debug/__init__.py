"""Looking into what runs, and into what went wrong."""
