"""A study's runs handed to engines: planned minus finished, worker processes on this machine, or Ray."""
