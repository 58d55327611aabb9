"""The decoder's operations in C++ for Linux CPUs. ``build`` makes the library that they are in.

Importing this package imports neither mlx nor numpy, because a wheel is built where they are not installed.
"""
