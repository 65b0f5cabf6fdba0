"""Sluice's gateway: admission, routing, relay and metering in front of vLLM. ARCHITECTURE.md is the map."""
