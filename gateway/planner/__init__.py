"""Capacity planning: the queue's own core driven in virtual time over a trace or a load that is described."""
