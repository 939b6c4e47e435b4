"""SciPy-shaped entries over the kernel."""
