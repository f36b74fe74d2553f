"""Other people's libraries and checkpoints: each module imports its library when it is imported itself, and not before."""
