"""CUDA on the CPU: compiles the kernels of ``csrc/cuda`` against an emulation that sees every access, and runs them.

For the tests of those kernels and for counting what they move; not part of the installed package.
"""
