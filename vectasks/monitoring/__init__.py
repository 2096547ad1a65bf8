"""What a vector records of itself: counts, latencies, a timeline, live stats."""
