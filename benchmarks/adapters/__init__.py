"""One module a library: ``make(workload, num_envs, **options) -> Vector``."""
