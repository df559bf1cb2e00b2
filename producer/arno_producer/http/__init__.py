"""The HTTP door: jobs, single pictures and S3 events for whoever speaks HTTP. `arno serve` opens it."""
