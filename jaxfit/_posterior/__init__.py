"""The posterior: log density, its normal approximation, consensus of shards."""
