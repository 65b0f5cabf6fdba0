"""What the planes ask of stores, as Protocols; a docstring here is the contract every store is held to."""
