"""What runs: the queue, the worker, the scheduler, public values."""
