"""What the tests of shaders, the mutation suite and the kernel report share, one module to a family of shaders.

Definitions are in float64 numpy and written from the formulas; they share nothing with the packages under test.
"""
