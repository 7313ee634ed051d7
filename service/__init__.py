"""From HTTP to the model and back: gateway, queue, scheduler, worker, command line."""
