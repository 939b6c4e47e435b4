"""SciPy's arguments, options, tables and messages in the kernel's terms."""
