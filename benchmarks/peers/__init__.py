"""The same model behind other servers, on the same machine and the same trace. See benchmarks/README.md."""
