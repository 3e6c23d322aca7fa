"""What runs: the queue, the worker, the scheduler, the public store."""
