"""The conformance kit: what every backend has to do, as tests that run on any backend.

    pytest --lcm-backend NAME [--lcm-level smoke|core|full]

Begin with `conformance`, the tests; `tolerances` says how exact results have to be, and `shapes` what sizes
are tried.
"""
