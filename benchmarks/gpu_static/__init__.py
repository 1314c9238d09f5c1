"""What the Triton kernels cost, without a GPU: ``python -m benchmarks.gpu_static``."""
