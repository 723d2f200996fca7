"""Functions that the model can call: what it is told of them, how they are run, and what it is told of the results."""
