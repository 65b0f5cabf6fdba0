"""The data plane: one file per endpoint family, and the blocks a request passes through. chat.py is the way in."""
