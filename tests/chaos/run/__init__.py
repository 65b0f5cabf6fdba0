"""The chaos run: many requests while everything dies, then the books held against the engines' own journals."""
