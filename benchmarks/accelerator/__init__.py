"""How fast, and how right, is jaxfit on an accelerator?"""
