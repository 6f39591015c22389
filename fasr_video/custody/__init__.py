"""What others rely on: reruns, signatures, redacted pictures, and deletion in time."""
