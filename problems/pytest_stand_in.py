"""`pytest.raises` and `pytest.approx` for test functions that run where pytest is not installed."""

STAND_IN = """
class pytest:
    class raises:
        def __init__(self, expected_exception, match=None):
            self.expected, self.match = expected_exception, match

        def __enter__(self):
            return self

        def __exit__(self, kind, value, trace):
            import re

            assert kind is not None, "the program raised nothing"
            if not issubclass(kind, self.expected):
                return False
            assert self.match is None or re.search(self.match, str(value))
            self.type, self.value = kind, value
            return True

    class approx:
        def __init__(self, expected, rel=None, abs=None, nan_ok=False):
            self.expected, self.options = expected, (rel, abs, nan_ok)

        def __eq__(self, actual):
            expected = self.expected
            if isinstance(expected, dict):
                same = isinstance(actual, dict) and actual.keys() == expected.keys()
                return same and all(self._one(actual[key], expected[key]) for key in expected)
            if isinstance(expected, (list, tuple)):
                same = isinstance(actual, (list, tuple)) and len(actual) == len(expected)
                return same and all(map(self._one, actual, expected))
            return self._one(actual, expected)

        def _one(self, actual, expected):
            rel, absolute, nan_ok = self.options
            if actual == expected:
                return True
            if isinstance(expected, bool) or not isinstance(expected, (int, float, complex)):
                return False
            if isinstance(actual, bool) or not isinstance(actual, (int, float, complex)):
                return False
            if expected != expected:
                return nan_ok and actual != actual
            if abs(expected) == float("inf"):
                return False
            relative = (1e-6 if absolute is None else 0) if rel is None else rel
            return abs(actual - expected) <= max(relative * abs(expected), 1e-12 if absolute is None else absolute)
"""
"""Source code of a class `pytest`."""

NAMES = frozenset({"raises", "approx"})
