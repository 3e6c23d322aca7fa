"""The worker: fetches tasks, runs their handlers, settles them."""
