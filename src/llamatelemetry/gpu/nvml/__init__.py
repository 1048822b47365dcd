"""Access to NVIDIA GPUs through NVML, by the package nvidia-ml-py."""
