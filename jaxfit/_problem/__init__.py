"""The problem: residual, data and loss, evaluated as cost and linearisation of x."""
