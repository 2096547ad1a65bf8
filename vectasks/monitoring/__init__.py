"""Record a vector's counts, latencies, timeline and live stats."""
