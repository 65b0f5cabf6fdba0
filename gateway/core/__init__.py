"""Values and decisions, sans-IO: no await, no clock of its own, standard library only."""
