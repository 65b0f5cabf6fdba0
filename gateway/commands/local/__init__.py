"""A whole installation on this machine: what `sluice up` starts, keeps running and stops."""
